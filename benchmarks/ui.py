"""How fast the gate map answers: from a click in the overview to the redrawn window, in Chromium.

    python benchmarks/ui.py                 # writes benchmarks/results/ui.json

Starts the app on a free loopback port, opens a recorded trace (4,096 tokens by default) and clicks
at places spread over the map. The clock runs in the page: from the pointer going down until the new
window is drawn.
"""

import argparse
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

import saa_core as saa
from saa_core import fetch
from saa_core.files import write_json
from saa_core.types import quartiles

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WATCH = """(canvas, [query, key, near]) => {
  // The window names its first query and key; only the one that was clicked for is the answer.
  const there = () => [...document.querySelectorAll('[class*="st-key-window-"]')].some((box) => {
    const found = box.className.match(/st-key-window-\\d+-(\\d+)-(\\d+)-/);
    return found && Math.abs(found[1] - query) <= near && Math.abs(found[2] - key) <= near
      && box.querySelector('canvas, svg');
  });
  window.answered = null;
  canvas.addEventListener('pointerdown', () => {
    const start = performance.now();
    const look = () => {
      if (!there()) return requestAnimationFrame(look);
      // Two frames on, what was drawn is on the screen.
      requestAnimationFrame(() => requestAnimationFrame(() => {
        window.answered = performance.now() - start;
      }));
    };
    look();
  }, { once: true, capture: true });
}"""


def record(tokens: int, folder: Path) -> Path:
    """A real run of SmolLM2 on a novel, in blocks."""
    model = saa.load("smollm2", device="cpu")
    text = (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
    offsets = model.tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(offsets) < tokens:
        text = text * (tokens // len(offsets) + 1)
        offsets = model.tokenizer(text, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
    policy = saa.Policy(granularity="block")
    return saa.run(model, text[: offsets[tokens - 1][1]], policy).save(folder / "long.saa")


def serve(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=(folder / "log").open("wb"), stderr=-2)
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).close()
            return server, address
        except OSError:
            time.sleep(0.2)
    server.terminate()
    raise SystemExit("the app did not answer")


def still(page: Page) -> None:
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


def click_times(page: Page, clicks: int, tokens: int, window: int) -> list[float]:
    """ms from each click in the overview to the redrawn window."""
    draw = random.Random(0)
    canvas = page.locator("canvas[role=application]")
    samples = []
    for _ in range(clicks):
        still(page)
        page.wait_for_timeout(300)  # the page before is at rest
        area = canvas.bounding_box()
        assert area is not None
        down = draw.uniform(0.15, 0.95)
        across = draw.uniform(0.05, down)
        place = {"x": across * area["width"], "y": down * area["height"]}
        # Where the window will start, and how many tokens a pixel is off.
        first = [
            min(max(0, int(x * tokens) - window // 2), tokens - window) for x in (down, across)
        ]
        canvas.evaluate(WATCH, [*first, 3 * tokens / area["width"]])
        canvas.click(position=place, force=True)
        page.wait_for_function("() => window.answered")
        samples.append(float(page.evaluate("() => window.answered")))
    return samples


def answer(
    browser: Browser, address: str, trace: Path, tokens: int, window: int, clicks: int
) -> dict[str, Any]:
    """Opens the trace in a page of its own and times clicks at one window size."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"{address}/gate_map?lang=en&window={window}")
    page.locator('input[type="file"]').set_input_files(trace)
    page.locator("canvas[role=application]").wait_for()
    click_times(page, 2, tokens, window)  # the first ones load code
    samples = click_times(page, clicks, tokens, window)
    page.close()
    low, middle, high = quartiles(samples)
    print(f"{tokens} tokens, window of {window}: median {middle:.0f} ms ({low:.0f} to {high:.0f})")
    return {
        "what": "click in the overview to redrawn window, ms",
        "tokens": tokens,
        "window": window,
        "median_ms": middle,
        "quartiles_ms": [low, high],
        "samples_ms": samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--trace", type=Path, help="a recorded trace to open instead of a new one")
    parser.add_argument("--windows", type=int, nargs="+", default=[32, 64], choices=(16, 32, 64))
    parser.add_argument("--clicks", type=int, default=25)
    parser.add_argument("--out", type=Path, default=RESULTS / "ui.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trace = options.trace or record(options.tokens, folder)
        server, address = serve(folder)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
                found = [
                    answer(browser, address, trace, options.tokens, window, options.clicks)
                    for window in options.windows
                ]
                browser.close()
        finally:
            server.terminate()
            server.wait(30)
    write_json(options.out, {"gate_map_click": found})


if __name__ == "__main__":
    main()
