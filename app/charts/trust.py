"""Charts of the Trust page: said against true, and what each layer misses. Pure: no streamlit.

Green is what was corrected or guarded, pink is what was not.
"""

from collections.abc import Sequence

import altair as alt
import pandas as pd

import saa_core as saa
from app.charts.palette import palette
from app.text import Words
from saa_core.gates.reliability import Reliability


def reliability(found: Reliability, words: Words, dark: bool) -> alt.LayerChart:
    """Predicted mass against true mass in bins of as many rows each; on the diagonal both agree."""
    colours = palette(dark)
    kinds = {"before": words("trust.own_word"), "after": words("trust.corrected")}
    rows = pd.DataFrame(
        [
            {"kind": kinds[name], "said": each.predicted, "true": each.observed, "rows": each.rows}
            for name, diagram in (("before", found.before), ("after", found.after))
            for each in diagram.bins
        ]
    )
    low = max(0.0, min(rows.said.min(), rows.true.min()) - 0.02)
    scale = alt.Scale(domain=[low, 1.0], nice=False)
    diagonal = pd.DataFrame({"said": [low, 1.0], "true": [low, 1.0]})
    axis = alt.Axis(format=".0%", tickCount=6)
    base = alt.Chart(rows).encode(
        x=alt.X("said:Q", title=words("trust.said"), scale=scale, axis=axis),
        y=alt.Y("true:Q", title=words("trust.true"), scale=scale, axis=axis),
        color=alt.Color(
            "kind:N",
            title=None,
            sort=list(kinds.values()),
            scale=alt.Scale(domain=list(kinds.values()), range=[colours.changed, colours.retained]),
            legend=alt.Legend(orient="bottom"),
        ),
        shape=alt.Shape(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=list(kinds.values()), range=["diamond", "circle"]),
        ),
        tooltip=[
            alt.Tooltip("kind:N", title=words("trust.whose")),
            alt.Tooltip("said:Q", title=words("trust.said"), format=".1%"),
            alt.Tooltip("true:Q", title=words("trust.true"), format=".1%"),
            alt.Tooltip("rows:Q", title=words("trust.rows"), format=","),
        ],
    )
    line = alt.Chart(diagonal).mark_line(color=colours.ink, strokeDash=[4, 4], opacity=0.5)
    return (
        line.encode(x=alt.X("said:Q", scale=scale), y=alt.Y("true:Q", scale=scale))
        + base.mark_point(filled=True, size=80, opacity=0.9)
    ).properties(height=340)


def head_errors(found: Reliability, words: Words, dark: bool) -> alt.Chart:
    """LayerSlack error of every head after the correction, in points."""
    colours = palette(dark)
    rows = pd.DataFrame(
        [
            {"layer": layer, "head": head, "before": 100 * before, "after": 100 * after}
            for layer, pair in enumerate(zip(found.before.heads, found.after.heads, strict=True))
            for head, (before, after) in enumerate(zip(*pair, strict=True))
        ]
    )
    highest = max(2.0, float(rows.after.max()))
    return (
        alt.Chart(rows)
        .mark_rect(stroke=colours.paper)
        .encode(
            x=alt.X("head:O", title=words("chart.head"), axis=alt.Axis(labelAngle=0, orient="top")),
            y=alt.Y("layer:O", title=words("chart.layer")),
            color=alt.Color(
                "after:Q",
                scale=alt.Scale(domain=[0, highest], range=[colours.dropped, colours.changed]),
                legend=alt.Legend(
                    title=words("trust.points"), orient="bottom", gradientLength=100, tickCount=3
                ),
            ),
            tooltip=[
                alt.Tooltip("layer:O", title=words("chart.layer")),
                alt.Tooltip("head:O", title=words("chart.head")),
                alt.Tooltip("before:Q", title=words("trust.own_word"), format=".2f"),
                alt.Tooltip("after:Q", title=words("trust.corrected"), format=".2f"),
            ],
        )
        .properties(height=max(200, 15 * len(found.after.heads)))
    )


def missed_by_layer(
    blind: saa.Trace, guarded: saa.Trace, limit: float, words: Words, dark: bool
) -> alt.LayerChart:
    """True missed mass of each layer without a guard and with one; the limit is of their mean."""
    colours = palette(dark)
    kinds = [words("trust.without"), words("trust.with")]
    rows = pd.DataFrame(
        [
            {"kind": kind, "layer": layer, "missed": missed, "pairs": pairs}
            for kind, trace in zip(kinds, (blind, guarded), strict=True)
            for layer, (missed, pairs) in enumerate(zip(*_layers(trace), strict=True))
        ]
    )
    lines = (
        alt.Chart(rows)
        .mark_line(point=alt.OverlayMarkDef(size=45))
        .encode(
            x=alt.X(
                "layer:Q", title=words("chart.layer"), axis=alt.Axis(format="d", tickMinStep=1)
            ),
            y=alt.Y(
                "missed:Q",
                title=words("trust.missed_axis"),
                axis=alt.Axis(format=".0%"),
                scale=alt.Scale(domainMin=0),
            ),
            color=alt.Color(
                "kind:N",
                title=None,
                sort=kinds,
                scale=alt.Scale(domain=kinds, range=[colours.changed, colours.retained]),
                legend=alt.Legend(orient="bottom"),
            ),
            strokeWidth=alt.StrokeWidth(
                "kind:N", scale=alt.Scale(domain=kinds, range=[5, 1.5]), legend=None
            ),
            tooltip=[
                alt.Tooltip("kind:N", title=words("trust.whose")),
                alt.Tooltip("layer:Q", title=words("chart.layer"), format="d"),
                alt.Tooltip("missed:Q", title=words("trust.missed_axis"), format=".1%"),
                alt.Tooltip("pairs:Q", title=words("trust.pairs"), format=".1%"),
            ],
        )
    )
    mark = pd.DataFrame({"limit": [limit], "name": [words("trust.limit_line")]})
    rule = alt.Chart(mark).mark_rule(color=colours.ink, strokeDash=[4, 4]).encode(y="limit:Q")
    name = (
        alt.Chart(mark)
        .mark_text(align="right", dx=-4, dy=-8, color=colours.ink)
        .encode(y="limit:Q", x=alt.value("width"), text="name:N")
    )
    return (lines + rule + name).properties(height=300)


def _layers(trace: saa.Trace) -> tuple[Sequence[float], Sequence[float]]:
    """(missed mass, kept pairs) by layer, means over heads."""
    assert trace.retained_mass is not None
    missed = (1 - trace.retained_mass.mean(1)).clip(0, 1)
    return missed.tolist(), trace.density.mean(1).tolist()
