"""The README's animated picture: one recorded run, from every pair to those that were kept, and the time.

    python -m benchmarks.page.animation     # writes docs/images/attention.webp

Runs no model. Scores and decisions are those of the recorded trace of a novel's page
(assets/decks/TIME-novel.saa); the times are medians of benchmarks/results/prefill.json, which is another,
longer text: the picture says so.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from saa_core.trace.trace import Trace

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "images" / "attention.webp"
LAYER, HEAD = 29, 5
TIMED = {"length": 4096, "dtype": "float32"}
MACHINE = "2 cores of an AMD EPYC, float32"

WIDTH, HEIGHT, FINER = 1120, 500, 2
"""Size in pixels, and how many times finer it is drawn than shown."""
MAP_X, MAP_Y, MAP_SIZE = 36, 36, 428
TEXT_X, TEXT_WIDTH = 512, 572
FRAME_MS = 50

INK, QUIET, FAINT = (28, 35, 51), (92, 102, 122), (233, 237, 243)
KEPT, DENSE = np.array((45, 98, 214)), np.array((176, 186, 203))
LOW, HIGH = np.array((222, 232, 252)), np.array((20, 44, 128))

Colours = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Scene:
    """What one frame shows.

    Args:
        title, lines: words beside the map.
        colours: of every decided block, [M, S, 3]; those of pairs that nothing allows are not drawn.
        share: of the pairs of this head that are computed so far, or None.
        heads: how many of all heads are drawn in small, from 0 to 1.
        seconds: how far the race of both times is, or None before it.
    """

    title: str
    lines: tuple[str, ...]
    colours: Colours
    share: float | None = None
    heads: float = 0
    seconds: float | None = None


class Film:
    """One head of a trace, and what is drawn of it."""

    def __init__(self, trace: Trace, timed: dict[str, Any], layer: int, head: int) -> None:
        decision = trace.decision(layer, head)
        self.trace, self.timed, self.layer, self.head = trace, timed, layer, head
        self.keep = np.asarray(decision.keep)
        self.pairs = trace.allowed_count(layer)
        self.allowed = self.pairs > 0
        score = np.where(self.allowed, np.asarray(decision.score, np.float64), np.nan)
        shade = np.log(np.maximum(score, 1e-4))
        low, high = np.nanpercentile(shade, (5, 98))
        self.shade = np.clip((shade - low) / (high - low), 0, 1)
        left_out = np.argwhere(self.allowed & ~self.keep)
        self.dropped = left_out[np.argsort(score[tuple(left_out.T)])]
        """(row, column) of every block that is left out, the lowest score first."""
        self.small = self._small()

    def _small(self) -> list[Image.Image]:
        layers, heads = self.trace.shape
        found = []
        for head in range(heads):
            for layer in range(layers):
                keep = np.asarray(self.trace.decision(layer, head).keep) & self.allowed
                picture = np.full((*keep.shape, 3), 255, np.uint8)
                picture[self.allowed] = FAINT
                picture[keep] = KEPT
                found.append(Image.fromarray(picture))
        return found

    def share(self, keep: Colours) -> float:
        return float(self.pairs[keep & self.allowed].sum() / self.pairs.sum())

    def scenes(self) -> Iterator[tuple[Scene, int]]:
        """Every frame and for how many milliseconds it stands."""
        rows, columns = self.keep.shape
        dense = np.broadcast_to(DENSE, (rows, columns, 3)).astype(float)
        scored = LOW + self.shade[..., None] * (HIGH - LOW)
        blank = np.full_like(dense, 255)
        tokens = self.trace.keys
        scene = Scene(
            "Dense attention computes every pair",
            (f"A page of a novel, {tokens} tokens: each looks at", "all tokens before it."),
            blank,
        )
        for row in range(1, rows + 1):
            share = float(self.pairs[:row].sum() / self.pairs.sum())
            yield replace(scene, colours=_upto(row, dense, blank), share=share), FRAME_MS
        scene = replace(scene, colours=dense, share=1.0)
        yield scene, 1100
        scene = replace(
            scene,
            title="A small gate scores the pairs first",
            lines=(
                "Dark: much of the attention is expected here.",
                f"Layer {self.layer}, head {self.head} of a recorded run.",
            ),
        )
        for row in range(1, rows + 1):
            yield replace(scene, colours=_upto(row, scored, dense)), FRAME_MS
        yield replace(scene, colours=scored), 1300
        policy = self.trace.policy
        assert policy is not None
        assert policy.mass is not None
        scene = replace(
            scene,
            title="What matters little is left out",
            lines=(
                f"Kept: the fewest blocks that hold {policy.mass:.0%} of the",
                "attention that the gate expects.",
            ),
        )
        steps = 36
        keep, colours = self.allowed.copy(), scored.copy()
        for step in range(steps):
            first, last = (len(self.dropped) * at // steps for at in (step, step + 1))
            for row, column in self.dropped[first:last]:
                keep[row, column] = False
                colours[row, column] = FAINT
            yield replace(scene, colours=colours.copy(), share=self.share(keep)), FRAME_MS
        for step in range(1, 9):
            colours = np.where(keep[..., None], scored + step / 8 * (KEPT - scored), FAINT)
            yield replace(scene, colours=colours, share=self.share(keep)), FRAME_MS
        scene = replace(scene, colours=colours, share=self.share(keep))
        yield scene, 1300
        layers, heads = self.trace.shape
        scene = replace(
            scene,
            title="Every layer and head decides anew",
            lines=(
                f"{layers} layers of {heads} heads. Of all pairs of this text",
                f"{self.trace.sparsity:.0%} were not computed.",
            ),
            share=None,
        )
        for step in range(1, 25):
            yield replace(scene, heads=step / 24), FRAME_MS
        yield replace(scene, heads=1), 2000
        dense_s = _median(self.timed["samples_ms"]["dense"])
        scene = replace(
            scene,
            title="So a long prompt is read sooner",
            lines=(
                f"{TIMED['length']:,} tokens on {MACHINE}:",
                f"{self.timed['policy']}, {self.timed['density']:.0%} of the pairs, "
                f"{self.timed['ppl_increase_pct']:+.1f}% perplexity.",
            ),
        )
        for step in range(51):
            yield replace(scene, seconds=dense_s * step / 50), FRAME_MS
        yield replace(scene, seconds=dense_s), 3200

    def draw(self, scene: Scene) -> Image.Image:
        image = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), "white")
        pen = ImageDraw.Draw(image)
        self._map(pen, scene)
        _write(pen, TEXT_X, 40, scene.title, 30, INK)
        for at, line in enumerate(scene.lines):
            _write(pen, TEXT_X, 92 + 30 * at, line, 21, QUIET)
        if scene.seconds is not None:
            self._race(pen, scene.seconds)
        elif scene.heads:
            self._heads(image, scene.heads)
        elif scene.share is not None:
            _write(pen, TEXT_X, 226, f"{scene.share:.0%}", 96, INK)
            _write(pen, TEXT_X, 340, "of this head's pairs are computed", 21, QUIET)
            bar = (TEXT_X, 388, TEXT_WIDTH, 14)
            _bar(pen, *bar, FAINT)
            _bar(pen, bar[0], bar[1], bar[2] * scene.share, bar[3], tuple(KEPT))
        return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)

    def _map(self, pen: ImageDraw.ImageDraw, scene: Scene) -> None:
        rows, columns = self.keep.shape
        high, wide = MAP_SIZE / rows, MAP_SIZE / columns
        for row, column in np.argwhere(self.allowed):
            left, top = MAP_X + column * wide, MAP_Y + row * high
            box = (left + 0.8, top + 0.8, left + wide - 0.8, top + high - 0.8)
            colour = tuple(round(part) for part in scene.colours[row, column])
            pen.rounded_rectangle([FINER * edge for edge in box], FINER * 2, fill=colour)
        _write(pen, MAP_X + MAP_SIZE, MAP_Y + 6, "one block =", 15, QUIET, anchor="ra")
        size = f"{self.trace.block[0]} x {self.trace.block[1]} token pairs"
        _write(pen, MAP_X + MAP_SIZE, MAP_Y + 26, size, 15, QUIET, anchor="ra")

    def _heads(self, image: Image.Image, shown: float) -> None:
        layers = self.trace.shape[0]
        step, size = TEXT_WIDTH * FINER / layers, round(TEXT_WIDTH * FINER / layers) - 4
        for at, picture in enumerate(self.small):
            head, layer = divmod(at, layers)
            if layer / layers < shown:
                place = (round(TEXT_X * FINER + layer * step), 200 * FINER + head * (size + 18))
                image.paste(
                    picture.resize((size, size + 10), Image.Resampling.BOX),
                    place,
                )

    def _race(self, pen: ImageDraw.ImageDraw, seconds: float) -> None:
        sides = (
            ("Dense (PyTorch)", _median(self.timed["samples_ms"]["dense"]), DENSE),
            ("SAA, gate included", _median(self.timed["samples_ms"]["saa"]), KEPT),
        )
        longest = max(total for _, total, _ in sides)
        for at, (name, total, colour) in enumerate(sides):
            top = 196 + 92 * at
            now = min(seconds, total)
            _write(pen, TEXT_X, top, name, 21, INK)
            _write(pen, TEXT_X + TEXT_WIDTH, top, f"{now:.1f} s", 21, INK, anchor="ra")
            _bar(pen, TEXT_X, top + 34, TEXT_WIDTH, 28, FAINT)
            _bar(pen, TEXT_X, top + 34, TEXT_WIDTH * now / longest, 28, tuple(colour))
        if seconds >= longest:
            ratio = f"{self.timed['prefill_ratio']:.2f} times as fast, measured"
            _write(pen, TEXT_X, 396, ratio, 30, tuple(int(part) for part in KEPT))


def _upto(row: int, new: Colours, old: Colours) -> Colours:
    """The first rows in new colours, the others in old ones."""
    return np.concatenate([new[:row], old[row:]])


def _median(samples_ms: list[float]) -> float:
    return float(np.median(samples_ms)) / 1000


def _write(
    pen: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    size: int,
    colour: tuple[int, ...],
    anchor: str = "la",
) -> None:
    font = ImageFont.load_default(size * FINER)  # comes with Pillow: the same on every machine
    pen.text((x * FINER, y * FINER), text, fill=colour, font=font, anchor=anchor)


def _bar(
    pen: ImageDraw.ImageDraw,
    x: float,
    y: float,
    width: float,
    height: float,
    colour: tuple[int, ...],
) -> None:
    if width * FINER >= height:
        box = [FINER * edge for edge in (x, y, x + width, y + height)]
        pen.rounded_rectangle(box, FINER * height / 4, fill=tuple(int(part) for part in colour))


def film() -> Film:
    """The film of what is recorded in this repository."""
    (file,) = (ROOT / "assets" / "decks").glob("*-novel.saa")
    rows = json.loads((ROOT / "benchmarks" / "results" / "prefill.json").read_text("utf-8"))
    (timed,) = (row for row in rows if all(row[key] == value for key, value in TIMED.items()))
    return Film(Trace.load(file), timed, LAYER, HEAD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    made = film()
    frames, times = [], []
    for scene, stands_ms in made.scenes():
        frames.append(made.draw(scene))
        times.append(stands_ms)
    frames[0].save(
        options.out,
        save_all=True,
        append_images=frames[1:],
        duration=times,
        loop=0,
        quality=70,
        method=4,
    )
    kib = options.out.stat().st_size / 1024
    print(f"{options.out}: {len(frames)} frames, {sum(times) / 1000:.1f} s, {kib:.0f} KiB")


if __name__ == "__main__":
    main()
