"""The README's small pictures, cut out of the screenshots that the browser tests take.

    python -m benchmarks.page.cutouts     # writes docs/images/ask_NAME.webp

A page that was laid out anew moves what is in its cut-out: look at the pictures after running this.
"""

import argparse
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
LEFT, WIDTH, HEIGHT = 350, 1080, 640
"""Beside the sidebar, in pixels of a screenshot 1,440 wide."""
TOPS = {
    "explore": 455,
    "gate_map": 330,
    "trust": 520,
    "latency": 260,
    "compare": 2402,
    "cost": 215,
}
"""Where each cut-out begins on its page."""
SHOWN = (WIDTH * 2 // 3, HEIGHT * 2 // 3)


def cut(name: str) -> Image.Image:
    """The part of a page's screenshot that the README shows."""
    top = TOPS[name]
    page = Image.open(IMAGES / f"{name}.png").convert("RGB")
    part = page.crop((LEFT, top, LEFT + WIDTH, top + HEIGHT))
    return part.resize(SHOWN, Image.Resampling.LANCZOS)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name in TOPS:
        out = IMAGES / f"ask_{name}.webp"
        cut(name).save(out, quality=85, method=6)
        print(f"{out}: {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
