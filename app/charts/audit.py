"""Charts of the Dataset page: what moved by slice, and how a figure is spread. Pure: no streamlit.

A click selects: "slice" in the one, "bar" in the other. What is chosen is dark.
"""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.charts.palette import Palette, palette
from app.text import Words
from saa_core.audit.comparison import SliceChange
from saa_core.audit.figures import Bar, SliceFigures


def by_slice(
    rows: Sequence[SliceFigures], labels: bool, chosen: str, words: Words, dark: bool
) -> alt.LayerChart:
    """Share of next words, or labels, that are other ones, with its spread; a bar for each slice."""
    colours = palette(dark)
    moved = words("dataset.labels_moved" if labels else "dataset.words_moved")
    frame = pd.DataFrame(
        [
            {
                "slice": row.name,
                "name": words(f"slice.{row.name.replace(' ', '_')}"),
                "moved": 1 - row.agreement,
                "low": 1 - row.high,
                "high": 1 - row.low,
                "texts": row.texts,
                "density": row.density,
                "lost": row.lost,
                "chosen": row.name == chosen,
            }
            for row in rows
        ]
    )
    tooltip = [
        alt.Tooltip("name:N", title=words("dataset.slice")),
        alt.Tooltip("texts:Q", title=words("dataset.texts"), format=","),
        alt.Tooltip("moved:Q", title=moved, format=".1%"),
        alt.Tooltip("density:Q", title=words("dataset.density"), format=".1%"),
        alt.Tooltip("lost:Q", title=words("dataset.lost"), format=".2%"),
    ]
    point = alt.selection_point(name="slice", fields=["slice"], empty=False, toggle=False)
    return _slices(frame, moved, tooltip, colours, point)


def changed_by_slice(
    rows: Sequence[SliceChange], labels: bool, chosen: str, words: Words, dark: bool
) -> alt.LayerChart:
    """Share of labels, or next words, that are other ones in a second audit, with its spread."""
    moved = words("against.labels_share" if labels else "against.words_moved")
    frame = pd.DataFrame(
        [
            {
                "slice": row.name,
                "name": words(f"slice.{row.name.replace(' ', '_')}"),
                "moved": row.share if labels else row.words,
                "low": row.low if labels else row.words_low,
                "high": row.high if labels else row.words_high,
                "texts": row.texts,
                "changed": row.changed,
                "chosen": row.name == chosen,
            }
            for row in rows
        ]
    )
    changed = words("against.labels_changed" if labels else "against.texts_changed")
    tooltip = [
        alt.Tooltip("name:N", title=words("dataset.slice")),
        alt.Tooltip("texts:Q", title=words("dataset.texts"), format=","),
        alt.Tooltip("changed:Q", title=changed, format=","),
        alt.Tooltip("moved:Q", title=moved, format=".1%"),
    ]
    return _slices(frame, moved, tooltip, palette(dark), None)


def _slices(
    frame: pd.DataFrame,
    title: str,
    tooltip: list[alt.Tooltip],
    colours: Palette,
    point: alt.Parameter | None,
) -> alt.LayerChart:
    """A bar and the line of its spread for each row.

    Args:
        frame: name, moved, low, high, chosen, and what the tooltip shows.
        point: what a click on a row sets.
    """
    y = alt.Y(
        "name:N",
        title=None,
        sort=list(frame.name),
        axis=alt.Axis(labelOverlap=False, labelLimit=140),
    )
    base = alt.Chart(frame)
    bars = base.mark_bar().encode(
        x=alt.X(
            "moved:Q",
            title=title,
            axis=alt.Axis(format=_format(frame.high.max() / 5), tickCount=5),
        ),
        y=y,
        color=alt.condition("datum.chosen", alt.value(colours.changed), alt.value(colours.dropped)),
    )
    spread = base.mark_rule(color=colours.ink, strokeWidth=1.5).encode(
        x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y
    )
    # What is clicked is the whole row, since the bar of a slice in which nothing moved has no width.
    rows_clicked = base.mark_bar(
        cursor="default" if point is None else "pointer", opacity=0
    ).encode(
        x=alt.value(0),
        x2=alt.value("width"),
        y=y,
        tooltip=tooltip,
    )
    if point is not None:
        rows_clicked = rows_clicked.add_params(point)
    return (bars + spread + rows_clicked).properties(height=32 * len(frame) + 70)


def distribution(
    bars: Sequence[Bar], chosen: int | None, title: str, words: Words, dark: bool
) -> alt.Chart:
    """How many texts have which value."""
    colours = palette(dark)
    frame = pd.DataFrame(
        [
            {
                "bar": at,
                "low": bar.low,
                "high": bar.high,
                "texts": bar.texts,
                "chosen": at == chosen,
            }
            for at, bar in enumerate(bars)
        ]
    )
    point = alt.selection_point(name="bar", fields=["bar"], empty=False, toggle=False)
    return (
        alt.Chart(frame)
        .mark_bar(cursor="pointer", binSpacing=1)
        .encode(
            x=alt.X(
                "low:Q",
                title=title,
                bin="binned",
                axis=alt.Axis(format=_format(bars[0].high - bars[0].low), tickCount=5),
                scale=alt.Scale(zero=False, nice=False),
            ),
            x2="high:Q",
            y=alt.Y(
                "texts:Q", title=words("dataset.texts"), axis=alt.Axis(format=",d", tickMinStep=1)
            ),
            color=alt.condition(
                "datum.chosen", alt.value(colours.kept), alt.value(colours.kept_always)
            ),
            tooltip=[
                alt.Tooltip("low:Q", title=words("dataset.from"), format=".2%"),
                alt.Tooltip("high:Q", title=words("dataset.to"), format=".2%"),
                alt.Tooltip("texts:Q", title=words("dataset.texts"), format=","),
            ],
        )
        .add_params(point)
        .properties(height=260)
    )


def _format(step: float) -> str:
    """Per cent, with as many digits as steps of this size need."""
    return ".0%" if step > 0.0095 else ".1%" if step > 0.00095 else ".2%"
