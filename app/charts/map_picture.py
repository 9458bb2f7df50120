"""The whole map of one head as PNG bytes. Pure: no streamlit.

A map of more dots than the picture has is pooled, and no kept pair vanishes in it.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.charts.palette import FORCED, palette, rgb
from saa_core import REASONS, Trace

PICTURE = 512
FAINTEST = 0.3
"""Share of full blue that a cell with a single kept pair among many gets."""


def overview_png(trace: Trace, layer: int, head: int, dark: bool) -> bytes:
    """The whole map of one head, at most 512 x 512 dots; transparent where nothing is allowed.

    Longer texts are pooled: a dot's blue is the kept share of its allowed pairs, and never fainter
    than `FAINTEST` if one of them is kept.
    """
    colours = palette(dark)
    codes = trace.reason_map(layer, head)
    always = np.isin(codes, [REASONS.index(reason) for reason in FORCED])
    allowed, kept = pool(trace.allowed(layer)), pool(trace.keep_map(layer, head))
    share = (kept / np.maximum(allowed, 1))[..., None]
    strength = np.where(share > 0, FAINTEST + (1 - FAINTEST) * share, 0)
    forced = (pool(always) / np.maximum(kept, 1))[..., None]
    blue = (1 - forced) * rgb(colours.kept) + forced * rgb(colours.kept_always)
    mixed = (1 - strength) * rgb(colours.dropped) + strength * blue
    return png_bytes(mixed, allowed > 0)


def png_bytes(colours: NDArray[np.float64], shown: NDArray[np.bool_]) -> bytes:
    """Dots as a PNG file.

    Args:
        colours: red, green and blue from 0 to 255, [M, S, 3].
        shown: False is transparent, [M, S].
    """
    alpha = np.where(shown, 255, 0)[..., None]
    dots = np.concatenate([colours, alpha], -1).round().astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(dots, "RGBA").save(out, "PNG")
    return out.getvalue()


def pool(pairs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of True pairs per dot of the picture; every pair is counted."""
    step = -(-max(pairs.shape) // PICTURE)
    if step == 1:
        return pairs.astype(np.int64)
    tall, wide = (-size % step for size in pairs.shape)
    padded = np.pad(pairs, ((0, tall), (0, wide)))
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    return padded.reshape(rows, step, columns, step).sum((1, 3), dtype=np.int64)


def full_png(trace: Trace, layer: int, dark: bool) -> bytes:
    """Every pair that dense attention computes, in the grey of dense."""
    allowed = pool(trace.allowed(layer)) > 0
    grey = np.broadcast_to(rgb(palette(dark).dense), (*allowed.shape, 3))
    return png_bytes(grey, allowed)


def score_png(trace: Trace, layer: int, head: int, dark: bool) -> bytes:
    """What the gate expects of each pair: the more blue, the more attention. Of pairs, not of blocks."""
    colours = palette(dark)
    allowed = trace.allowed(layer)
    score = np.where(allowed, np.maximum(trace.score_map(layer, head), 1e-6), 1e-6)
    low, high = np.percentile(np.log(score[allowed]), [5, 99])
    strength = np.clip((np.log(score) - low) / max(high - low, 1e-9), 0, 1)[..., None]
    mixed = (1 - strength) * rgb(colours.dropped) + strength * rgb(colours.kept)
    return png_bytes(mixed, allowed)
