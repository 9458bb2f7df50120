"""Charts of time and what it is traded for: rounds, speed and stages by length, quality, monthly cost.

Pure: no streamlit; words and theme come as arguments.
"""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from app.charts.palette import RECTS, palette
from app.text import Words
from saa_core import Timing
from saa_core.explain.tradeoff import Point
from saa_core.run.costs import Saving


def samples(dense: Timing, sparse: Timing, words: Words, dark: bool) -> alt.Chart:
    """Every measured round, dense above SAA."""
    colours = palette(dark)
    order = [words("chart.dense"), words("chart.saa")]
    rows = pd.DataFrame(
        [
            {"side": side, "ms": ms, "round": turn + 1}
            for side, timing in zip(order, (dense, sparse), strict=True)
            for turn, ms in enumerate(timing.samples_ms[: RECTS // 2])
        ]
    )
    return (
        alt.Chart(rows)
        .mark_tick(thickness=2, size=22, color=colours.ink)
        .encode(
            x=alt.X("ms:Q", title=words("chart.milliseconds"), scale=alt.Scale(zero=True)),
            y=alt.Y("side:N", title=None, sort=order),
            tooltip=[
                alt.Tooltip("round:Q", title=words("chart.round")),
                alt.Tooltip("ms:Q", title=words("chart.milliseconds"), format=",.1f"),
            ],
        )
        .properties(height=90)
    )


def speeds(timings: Sequence[Timing], words: Words, dark: bool) -> alt.LayerChart:
    """Times faster than dense by length, median and quartiles; dense and SAA come in turn."""
    colours = palette(dark)
    kinds = {"attention_ms": words("latency.attention"), "samples_ms": words("latency.prefill")}
    rows = []
    for dense, sparse in zip(timings[::2], timings[1::2], strict=True):
        for field, name in kinds.items():
            low, middle, high = sparse.ratio(dense, field)
            rows.append(
                {"tokens": dense.length, "kind": name, "low": low, "times": middle, "high": high}
            )
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X("tokens:O", title=words("latency.tokens"), axis=alt.Axis(labelAngle=0)),
        color=alt.Color(
            "kind:N",
            title=None,
            sort=list(kinds.values()),
            scale=alt.Scale(domain=list(kinds.values()), range=[colours.kept, colours.kept_always]),
            legend=alt.Legend(orient="bottom"),
        ),
        tooltip=[
            alt.Tooltip("tokens:Q", title=words("latency.tokens"), format=","),
            alt.Tooltip("kind:N", title=words("latency.what")),
            alt.Tooltip("times:Q", title=words("latency.times"), format=".2f"),
            alt.Tooltip("low:Q", title=words("latency.low"), format=".2f"),
            alt.Tooltip("high:Q", title=words("latency.high"), format=".2f"),
        ],
    )
    level = alt.Chart(pd.DataFrame({"y": [1.0]})).mark_rule(
        strokeDash=[4, 4], color=colours.ink, opacity=0.6
    )
    return (
        level.encode(y="y:Q")
        + base.mark_line(point=alt.OverlayMarkDef(size=60), strokeWidth=2).encode(
            y=alt.Y("times:Q", title=words("latency.times"), scale=alt.Scale(zero=True))
        )
        + base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    ).properties(height=300)


def stages(timings: Sequence[Timing], words: Words, dark: bool) -> alt.Chart:
    """Where SAA's attention time goes by length, as a share of dense attention's."""
    colours = palette(dark)
    kinds = {stage: words(f"latency.stage_{stage}") for stage in ("kernel", "rule", "gate")}
    rows = [
        {
            "tokens": dense.length,
            "stage": kinds.get(stage, stage),
            "order": list(kinds).index(stage) if stage in kinds else 9,
            "share": ms / max(sum(dense.stages_ms.values()), 1e-9),
            "ms": ms,
        }
        for dense, sparse in zip(timings[::2], timings[1::2], strict=True)
        for stage, ms in sparse.stages_ms.items()
    ]
    return (
        alt.Chart(pd.DataFrame(rows))
        .mark_bar()
        .encode(
            x=alt.X("tokens:O", title=words("latency.tokens"), axis=alt.Axis(labelAngle=0)),
            y=alt.Y(
                "share:Q", title=words("latency.share"), axis=alt.Axis(format="%", tickCount=5)
            ),
            color=alt.Color(
                "stage:N",
                title=None,
                sort=list(kinds.values()),
                scale=alt.Scale(
                    domain=list(kinds.values()),
                    range=[colours.kept, colours.kept_always, colours.dense],
                ),
                legend=alt.Legend(orient="bottom"),
            ),
            order="order:Q",
            tooltip=[
                alt.Tooltip("tokens:Q", title=words("latency.tokens"), format=","),
                alt.Tooltip("stage:N", title=words("latency.stage")),
                alt.Tooltip("ms:Q", title=words("chart.milliseconds"), format=",.1f"),
                alt.Tooltip("share:Q", title=words("latency.share"), format=".1%"),
            ],
        )
        .properties(height=300)
    )


def tradeoff(
    points: Sequence[Point], knee: int, chosen: float, words: Words, dark: bool, unit: str
) -> alt.LayerChart:
    """How far the output moves against the share of pairs computed; knee and setting marked."""
    colours = palette(dark)
    marks = {
        "knee": words("latency.knee"),
        "now": words("latency.now"),
        "other": words("latency.other"),
    }
    rows = pd.DataFrame(
        [
            {
                "density": point.density,
                "distance": point.distance,
                "mass": point.mass,
                "mark": marks["knee" if at == knee else "now" if point.mass == chosen else "other"],
                "label": f"{point.mass:g}",
            }
            for at, point in enumerate(points)
        ]
    )
    base = alt.Chart(rows).encode(
        x=alt.X(
            "density:Q",
            title=words("latency.pairs_computed"),
            axis=alt.Axis(format="%"),
            scale=alt.Scale(zero=False, padding=16),
        ),
        y=alt.Y("distance:Q", title=unit, scale=alt.Scale(padding=12)),
        tooltip=[
            alt.Tooltip("mass:Q", title=words("sidebar.mass"), format=".2f"),
            alt.Tooltip("density:Q", title=words("latency.pairs_computed"), format=".1%"),
            alt.Tooltip("distance:Q", title=unit, format=".4f"),
        ],
    )
    points_drawn = base.mark_point(filled=True, size=90, opacity=1).encode(
        color=alt.Color(
            "mark:N",
            title=None,
            sort=list(marks.values()),
            scale=alt.Scale(
                domain=list(marks.values()),
                range=[colours.changed, colours.ink, colours.kept],
            ),
            legend=alt.Legend(orient="bottom"),
        )
    )
    return (
        base.mark_line(color=colours.kept, opacity=0.5).encode(order="density:Q")
        + points_drawn
        + base.mark_text(dx=8, dy=-8, align="left", color=colours.ink).encode(text="label:N")
    ).properties(height=300)


def monthly(bills: Sequence[Saving], sign: str, words: Words, dark: bool) -> alt.LayerChart:
    """Cost per month by length, dense beside SAA, median and quartiles.

    Args:
        sign: of the currency.
    """
    colours = palette(dark)
    sides = {"dense": words("chart.dense"), "saa": words("chart.saa")}
    rows = []
    for bill in bills:
        for name, side in (("dense", bill.dense), ("saa", bill.saa)):
            low, middle, high = side.cost
            rows.append(
                {
                    "tokens": bill.tokens,
                    "side": sides[name],
                    "low": low,
                    "cost": middle,
                    "high": high,
                }
            )
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X("tokens:O", title=words("latency.tokens"), axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("side:N", sort=list(sides.values())),
        tooltip=[
            alt.Tooltip("tokens:Q", title=words("latency.tokens"), format=","),
            alt.Tooltip("side:N", title=words("labels.side")),
            alt.Tooltip("cost:Q", title=words("cost.row_cost"), format=",.0f"),
            alt.Tooltip("low:Q", title=words("latency.low"), format=",.0f"),
            alt.Tooltip("high:Q", title=words("latency.high"), format=",.0f"),
        ],
    )
    bars = base.mark_bar().encode(
        y=alt.Y("cost:Q", title=f"{words('cost.row_cost')} ({sign})"),
        color=alt.Color(
            "side:N",
            title=None,
            sort=list(sides.values()),
            scale=alt.Scale(domain=list(sides.values()), range=[colours.dense, colours.kept]),
            legend=alt.Legend(orient="top"),
        ),
    )
    spread = base.mark_rule(color=colours.ink, strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    return (bars + spread).properties(height=260)
