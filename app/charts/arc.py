"""What one token reads, or who reads it, as arcs over the text. Pure: no streamlit."""

import altair as alt
import numpy as np
import pandas as pd

from app.charts.pair import reason_text
from app.charts.palette import palette
from app.charts.token_labels import labels
from app.text import Words
from saa_core import REASONS, Trace

ARCS = 60
NAMED = 12
"""Arcs drawn for one token, and how many of their ends are named."""


def arcs(
    trace: Trace, layer: int, head: int, token: int, reads: bool, words: Words, dark: bool
) -> tuple[alt.Chart, int, int]:
    """What one token reads, or who reads it: arcs over the text, strongest first.

    Args:
        reads: True for the keys that the token reads as a query, False for its readers.

    Returns:
        the chart, the number of arcs drawn and the number of kept pairs.
    """
    part = np.s_[token : token + 1, :] if reads else np.s_[:, token : token + 1]
    kept = trace.keep_map(layer, head, part).ravel()
    score = trace.score_map(layer, head, part).ravel()
    codes = trace.reason_map(layer, head, part).ravel()
    names = labels(trace)
    others = np.flatnonzero(kept)
    others = others[np.argsort(-score[others], kind="stable")]
    drawn = others[:ARCS]
    top = max(float(score[drawn].max(initial=0)), 1e-9)
    rows = []
    for other in drawn:
        left, right = sorted((int(other), token))
        width = max(right - left, 1)
        for step in range(13):
            turn = step / 12
            rows.append(
                {
                    "arc": int(other),
                    "x": left + turn * (right - left),
                    "y": float(np.sqrt(width) * np.sin(np.pi * turn)),
                    "strength": float(score[other]) / top,
                    "other": f"{names[other]} ({other})",
                    "score": words.percent(float(score[other]), 2),
                    "reason": reason_text(REASONS[codes[other]], words),
                }
            )
    colours = palette(dark)
    data = pd.DataFrame(rows, columns=["arc", "x", "y", "strength", "other", "score", "reason"])
    side = words("chart.key" if reads else "chart.query")
    tallest = max(1.0, *(row["y"] for row in rows)) if rows else 1.0
    height = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.6 * tallest, tallest]))
    lines = (
        alt.Chart(data)
        .mark_line(interpolate="monotone", strokeWidth=2)
        .encode(
            x=alt.X(
                "x:Q",
                title=words("chart.position"),
                scale=alt.Scale(domain=[0, max(trace.keys - 1, 1)]),
                axis=alt.Axis(grid=False, tickMinStep=1),
            ),
            y=height,
            detail="arc:N",
            opacity=alt.Opacity("strength:Q", legend=None, scale=alt.Scale(range=[0.2, 1])),
            color=alt.value(colours.kept),
            tooltip=[
                alt.Tooltip("other:N", title=side),
                alt.Tooltip("score:N", title=words("chart.score")),
                alt.Tooltip("reason:N", title=words("chart.reason")),
            ],
        )
    )
    ends = [{"x": token, "name": names[token], "own": True}]
    apart = max(1, trace.keys // 60)  # names that would lie on each other are left out
    for at in drawn:
        if len(ends) <= NAMED and all(abs(int(at) - end["x"]) >= apart for end in ends):
            ends.append({"x": int(at), "name": names[at], "own": False})
    for end in ends:
        end["y"] = -0.04 * tallest
    marks = (
        alt.Chart(pd.DataFrame(ends))
        .mark_text(align="right", baseline="middle", angle=270, limit=76, fontSize=11)
        .encode(
            x="x:Q",
            y=height,
            text="name:N",
            color=alt.condition("datum.own", alt.value(colours.kept), alt.value(colours.ink)),
        )
    )
    return (lines + marks).properties(height=230), len(drawn), len(others)
