"""A trace as HTML for notebooks: a summary, density by layer and head, and where pairs were kept.

Inline SVG, no script, no style sheet, nothing from elsewhere; everything that a text or a model
could have written is escaped.
"""

from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saa_core.trace.recorded import Recorded

CELLS = 48
"""Most cells along a side of the map; larger traces are averaged."""
LEAST, MOST = (247, 250, 253), (8, 64, 129)
"""Colours of nothing and everything, readable on light and dark pages."""


def html(trace: Recorded) -> str:
    """The trace in a few hundred lines of HTML."""
    layers, heads = trace.shape
    gate = f"{trace.model.gate}, trained" if trace.model.trained else "UNTRAINED"
    rows = {
        "model": trace.model.name,
        "gate": gate,
        "tokens": f"{trace.keys:,}",
        "policy": "dense" if trace.policy is None else str(trace.policy),
        "decided in": "pairs" if trace.block == (1, 1) else f"blocks of {trace.block}",
        "pairs not computed": f"{trace.sparsity:.1%}",
        "attention kept": _attention_kept(trace),
        "kernel": f"{trace.execution.kernel}: {trace.execution.reason}",
    }
    if trace.policy is not None and trace.execution.kernel == "reference":
        rows["pairs not computed"] = f"none; {trace.sparsity:.1%} were judged unnecessary"
    table = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    pictures = [_picture("density by layer (down) and head", trace.density)]
    if trace.layers is not None:
        title = f"kept by how many of {layers} x {heads} heads: query (down), key"
        pictures.append(_picture(title, kept_share(trace)))
    return f"<div><table>{table}</table><div>{''.join(pictures)}</div></div>"


def kept_share(trace: Recorded) -> NDArray[Any]:
    """Share of layers and heads that keep each pair, averaged to at most CELLS x CELLS cells."""
    total: NDArray[Any] | None = None
    for layer in range(trace.shape[0]):
        kept = trace.maps(layer).keep.sum(0, dtype=np.float32)
        total = kept if total is None else total + kept
    assert total is not None
    share = total / (trace.shape[0] * trace.shape[1])
    for axis in (0, 1):
        length = share.shape[axis]
        starts = np.unique(np.arange(CELLS) * length // CELLS)
        sizes = np.diff([*starts, length])
        share = np.add.reduceat(share, starts, axis=axis)
        share = share / (sizes[:, None] if axis == 0 else sizes)
    return share


def _picture(title: str, values: NDArray[Any]) -> str:
    """Values in [0, 1] as a grid of squares."""
    M, S = values.shape
    size = max(3, min(14, 280 // max(M, S)))
    squares = []
    for m in range(M):
        for s in range(S):
            value = min(max(float(values[m, s]), 0.0), 1.0)
            red, green, blue = (
                round(a + (b - a) * value) for a, b in zip(LEAST, MOST, strict=True)
            )
            squares.append(
                f"<rect x='{s * size}' y='{m * size}' width='{size}' height='{size}' "
                f"fill='#{red:02x}{green:02x}{blue:02x}'/>"
            )
    return (
        "<figure style='display:inline-block;margin:8px;vertical-align:top'>"
        f"<svg role='img' aria-label='{escape(title, quote=True)}' "
        f"width='{S * size}' height='{M * size}'>{''.join(squares)}</svg>"
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def _attention_kept(trace: Recorded) -> str:
    if trace.retained_mass is None:
        return "not recorded"
    mean, interval = f"{trace.retained_mass.mean():.1%}", trace.retained_interval()
    if interval is None:
        return mean
    return f"{mean}, estimated; 95 % interval {interval[0]:.1%} to {interval[1]:.1%}"
