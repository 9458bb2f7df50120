"""Charts of a classification task: how probable each label is, and how many tokens each layer computes.

Pure: no streamlit; words and theme come as arguments.
"""

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from app.charts.palette import palette
from app.text import Words
from saa_core import Trace

LABELS = 6
"""Labels whose probability is drawn."""


def label_bars(dense: Trace | None, trace: Trace, words: Words, dark: bool) -> alt.Chart:
    """Probability of the likeliest labels, dense beside SAA."""
    colours = palette(dark)
    sides = {words("labels.saa"): trace}
    if dense is not None:
        sides = {words("labels.dense"): dense} | sides
    return bars_of_labels(sides, [colours.dense, colours.kept][-len(sides) :], words)


def bars_of_labels(sides: dict[str, Trace], colours: Sequence[str], words: Words) -> alt.Chart:
    """Probability of the likeliest labels on each side; all traces are of one task.

    Args:
        sides: by what they are called.
        colours: one per side.
    """
    names = next(iter(sides.values())).labels
    known = {name: side.label_probs for name, side in sides.items() if side.label_probs is not None}
    assert names is not None
    highest = np.max(list(known.values()), 0)
    shown = np.argsort(-highest)[:LABELS]
    rows = [
        {"label": names[i], "side": name, "probability": float(probs[i])}
        for name, probs in known.items()
        for i in shown
    ]
    order = list(known)
    return (
        alt.Chart(pd.DataFrame(rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "probability:Q",
                title=words("labels.axis"),
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            y=alt.Y(
                "label:N",
                title=None,
                sort=[names[i] for i in shown],
                axis=alt.Axis(labelOverlap=False, labelLimit=140),
            ),
            yOffset=alt.YOffset("side:N", sort=order),
            color=alt.Color(
                "side:N",
                title=None,
                sort=order,
                scale=alt.Scale(domain=order, range=list(colours)),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[
                alt.Tooltip("label:N", title=words("figure.label")),
                alt.Tooltip("side:N", title=words("labels.side")),
                alt.Tooltip("probability:Q", title=words("labels.axis"), format=".1%"),
            ],
        )
        .properties(height=34 * len(shown) + 110)
    )


def tokens_left(trace: Trace, layer: int, words: Words, dark: bool) -> alt.Chart:
    """Tokens that each layer computes; the chosen layer stands out."""
    assert trace.kept_tokens is not None
    rows = [
        {"layer": index, "tokens": int(alive.sum()), "chosen": index == layer}
        for index, alive in enumerate(trace.kept_tokens)
    ]
    colours = palette(dark)
    return (
        alt.Chart(pd.DataFrame(rows))
        .mark_bar()
        .encode(
            x=alt.X("layer:O", title=words("crossed.layer_axis"), axis=alt.Axis(labelAngle=0)),
            y=alt.Y("tokens:Q", title=words("crossed.tokens_axis")),
            color=alt.condition(
                "datum.chosen", alt.value(colours.kept), alt.value(colours.kept_always)
            ),
            tooltip=[
                alt.Tooltip("layer:O", title=words("crossed.layer_axis")),
                alt.Tooltip("tokens:Q", title=words("crossed.tokens_axis")),
            ],
        )
        .properties(height=220)
    )
