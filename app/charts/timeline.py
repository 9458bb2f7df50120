"""One run as a line of time: dense above SAA, each stretch in the colour of its stage. Pure: no streamlit."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.charts.palette import RECTS, palette
from app.text import Words
from saa_core.run.timeline import Timeline

DENSE = {False: "#7A8490", True: "#9AA4AF"}
"""Grey of dense attention, by theme."""


def stretches(sides: Sequence[Timeline], words: Words) -> pd.DataFrame:
    """One row per stretch: side, layer, stage, when it began and how long it took in ms."""
    return pd.DataFrame(
        [
            {
                "side": words(f"chart.{side.name}"),
                "layer": each.layer,
                "stage": words(f"timeline.{each.stage}"),
                "start": each.start_ms,
                "end": each.end_ms,
                "ms": each.ms,
            }
            for side in sides
            for each in side.stretches
        ]
    )


def timeline(sides: Sequence[Timeline], words: Words, dark: bool) -> alt.Chart:
    """Both sides on one scale; the pointer says layer, stage and time."""
    colours = palette(dark)
    shades = {
        "gate": colours.received,
        "rule": colours.changed,
        "guard": colours.retained,
        "kernel": colours.kept,
        "dense": DENSE[dark],
        "rest": colours.dropped,
    }
    met = {each.stage for side in sides for each in side.stretches}
    kinds = {words(f"timeline.{stage}"): shade for stage, shade in shades.items() if stage in met}
    return (
        alt.Chart(stretches(sides, words).head(RECTS))
        .mark_bar(height=30)
        .encode(
            x=alt.X("start:Q", title=words("chart.milliseconds"), scale=alt.Scale(zero=True)),
            x2="end:Q",
            y=alt.Y("side:N", title=None, sort=[words(f"chart.{side.name}") for side in sides]),
            color=alt.Color(
                "stage:N",
                title=None,
                sort=list(kinds),
                scale=alt.Scale(domain=list(kinds), range=list(kinds.values())),
                legend=alt.Legend(orient="bottom"),
            ),
            tooltip=[
                alt.Tooltip("side:N", title=words("timeline.side")),
                alt.Tooltip("layer:Q", title=words("chart.layer")),
                alt.Tooltip("stage:N", title=words("latency.stage")),
                alt.Tooltip("ms:Q", title=words("chart.milliseconds"), format=",.2f"),
                alt.Tooltip("start:Q", title=words("timeline.start"), format=",.1f"),
            ],
        )
        .properties(height=230)  # axis and legend lie inside
    )
