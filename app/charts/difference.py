"""Two runs laid over each other -> Altair chart or PNG bytes. Pure: no streamlit.

Blue is a pair that both keep and grey one that neither does, as everywhere; vermilion is a pair that
only A keeps and purple one that only B keeps. A and B are also written wherever there is room.
"""

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from app.charts.head import grid_of_heads
from app.charts.map_picture import png_bytes, pool
from app.charts.pair import Frame, pair_rows, pairs_chart, parts
from app.charts.palette import RECTS, palette, rgb
from app.text import Words
from saa_core import Comparison, Trace
from saa_core.explain.difference import (
    BOTH,
    NEITHER,
    ONLY_FIRST,
    ONLY_SECOND,
    OUTSIDE,
    Difference,
    Flip,
)
from saa_core.explain.effects import Effect

MEASURES = ("differs", "only_a", "only_b")
DRAWN = 20
"""Flips whose margins are drawn."""


def measure_heads(found: Difference, measure: str) -> NDArray[np.float64]:
    """One share of the compared pairs per layer and head, [L, H]."""
    count = {
        "differs": found.only_first + found.only_second,
        "only_a": found.only_first,
        "only_b": found.only_second,
    }[measure]
    shares: NDArray[np.float64] = count / np.maximum(found.pairs, 1)[:, None]
    return shares


def grid(
    found: Difference, measure: str, chosen: tuple[int, int], words: Words, dark: bool
) -> alt.Chart:
    """Share of the pairs that the two decide differently, by layer and head."""
    colours = palette(dark)
    L, H = found.both.shape
    rows = pd.DataFrame(
        {"layer": np.repeat(np.arange(L), H), "head": np.tile(np.arange(H), L)}
        | {name: measure_heads(found, name).ravel() for name in MEASURES}
    ).head(RECTS)
    rows["value"] = rows[measure]
    rows["chosen"] = (rows.layer == chosen[0]) & (rows["head"] == chosen[1])
    tooltip = [
        alt.Tooltip("layer:O", title=words("chart.layer")),
        alt.Tooltip("head:O", title=words("chart.head")),
        *(alt.Tooltip(f"{name}:Q", title=words(f"maps.{name}"), format=".1%") for name in MEASURES),
    ]
    top = {"only_a": colours.only_a, "only_b": colours.only_b}.get(measure, colours.ink)
    high = max(float(np.ceil(rows.value.max() * 20) / 20), 0.05)
    return grid_of_heads(rows, tooltip, (0.0, high, top), words, dark)


def overview_png(codes: NDArray[np.uint8], dark: bool) -> bytes:
    """The whole difference map, at most 512 x 512 dots; no pair that differs vanishes in one.

    Args:
        codes: of :func:`saa_core.explain.difference.difference_map`, [Q, K].
    """
    colours = palette(dark)
    counts = {code: pool(codes == code) for code in (NEITHER, BOTH, ONLY_FIRST, ONLY_SECOND)}
    both, neither = counts[BOTH], counts[NEITHER]
    differ = counts[ONLY_FIRST] + counts[ONLY_SECOND]
    share = (both / np.maximum(both + neither, 1))[..., None]
    same = share * rgb(colours.kept) + (1 - share) * rgb(colours.dropped)
    only_a = (counts[ONLY_FIRST] / np.maximum(differ, 1))[..., None]
    other = only_a * rgb(colours.only_a) + (1 - only_a) * rgb(colours.only_b)
    total = differ + both + neither
    strength = np.where(differ > 0, 0.4 + 0.6 * differ / np.maximum(total, 1), 0)[..., None]
    mixed = (1 - strength) * same + strength * other
    return png_bytes(mixed, total > 0)


def window(
    trace: Trace,
    codes: NDArray[np.uint8],
    frame: Frame,
    chosen: tuple[int, int],
    words: Words,
    dark: bool,
) -> alt.LayerChart:
    """Every compared pair of a window; where there is room, A or B stands on what only one keeps."""
    colours = palette(dark)
    kinds = {
        BOTH: (words("compare.both"), colours.kept, ""),
        NEITHER: (words("compare.neither"), colours.dropped, ""),
        ONLY_FIRST: (words("compare.only_a"), colours.only_a, "A"),
        ONLY_SECOND: (words("compare.only_b"), colours.only_b, "B"),
    }
    part = codes[parts(frame)]
    rows = pair_rows(trace, part != OUTSIDE, frame, chosen)
    found = part[rows.q - frame.q, rows.k - frame.k]
    rows["kind"] = [kinds[code][0] for code in found]
    rows["side"] = [kinds[code][2] for code in found]
    tooltip = [alt.Tooltip("kind:N", title=words("chart.reason"))]
    named = {name: colour for name, colour, _ in kinds.values()}
    cells = pairs_chart(rows, trace, frame, named, tooltip, words, dark)
    marked = rows[rows.side != ""].head(RECTS) if frame.size <= 32 else rows.head(0)
    letters = (
        alt.Chart(marked)
        .mark_text(fontSize=9 if frame.size > 16 else 12, color=colours.paper)
        .encode(x="key:O", y="query:O", text="side:N")
    )
    return (cells + letters).properties(height=560)


def output(
    found: Comparison, at: Sequence[int], names: Sequence[str], words: Words, dark: bool
) -> alt.Chart:
    """How far the output moved at each token: bars, those with another next word marked.

    Args:
        at: position of each compared token in A's text.
        names: the tokens.
    """
    colours = palette(dark)
    value = found.output_error if found.kl is None else found.kl
    kinds = [words("compare.next_same"), words("compare.next_differs")]
    same = [True] * len(at) if found.top1_agreement is None else found.top1_agreement
    rows = pd.DataFrame(
        {
            "position": at,
            "token": names,
            "value": np.asarray(value, float),
            "kind": [kinds[not agrees] for agrees in same],
        }
    )
    if len(rows) > RECTS:
        rows = rows.nlargest(RECTS, "value")
    title = words("compare.error_axis" if found.kl is None else "compare.kl_axis")
    colour = (
        alt.value(colours.ink)
        if found.top1_agreement is None
        else alt.Color(
            "kind:N",
            title=None,
            sort=kinds,
            scale=alt.Scale(domain=kinds, range=[colours.ink, colours.only_a]),
            legend=alt.Legend(orient="top"),
        )
    )
    return (
        alt.Chart(rows)
        .mark_bar(width=max(1, min(8, 700 // max(len(rows), 1))))
        .encode(
            x=alt.X(
                "position:Q",
                title=words("chart.position"),
                axis=alt.Axis(grid=False, tickMinStep=1),
                scale=alt.Scale(nice=False, padding=6),
            ),
            y=alt.Y("value:Q", title=title),
            color=colour,
            tooltip=[
                alt.Tooltip("token:N", title=words("compare.token")),
                alt.Tooltip("position:Q", title=words("chart.position"), format="d"),
                alt.Tooltip("value:Q", title=title, format=".3f"),
                alt.Tooltip("kind:N", title=words("compare.next")),
            ],
        )
        .properties(height=210)
    )


def margins(flips: Sequence[Flip], names: Sequence[str], words: Words, dark: bool) -> alt.Chart:
    """The margins of the flips on top of the list, A joined with B; the decision turns at 0."""
    colours = palette(dark)
    sides = {words("compare.a"): colours.only_a, words("compare.b"): colours.only_b}
    rows = []
    for rank, (flip, name) in enumerate(zip(flips[:DRAWN], names, strict=False)):
        values = flip.margin_first, flip.margin_second
        for side, value in zip(sides, values, strict=True):
            if value is not None:
                rows.append({"rank": f"{rank:03d} {name}", "side": side, "margin": value})
    data = pd.DataFrame(rows, columns=["rank", "side", "margin"])
    y = alt.Y(
        "rank:O",
        title=None,
        axis=alt.Axis(labelExpr="slice(datum.label, 4)", labelLimit=220, labelOverlap=False),
    )
    x = alt.X("margin:Q", title=words("compare.margin_axis"), axis=alt.Axis(format="%"))
    lines = (
        alt.Chart(data).mark_line(color=colours.ink, opacity=0.5).encode(x=x, y=y, detail="rank:O")
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "side:N",
                title=None,
                scale=alt.Scale(domain=list(sides), range=list(sides.values())),
                legend=alt.Legend(orient="top"),
            ),
            shape=alt.Shape("side:N", scale=alt.Scale(domain=list(sides)), legend=None),
            tooltip=[
                alt.Tooltip("side:N", title=words("labels.side")),
                alt.Tooltip("margin:Q", title=words("compare.margin_axis"), format="+.2%"),
            ],
        )
    )
    zero = alt.Chart(pd.DataFrame({"x": [0.0]})).mark_rule(color=colours.ink, strokeDash=[4, 4])
    drawn = len(data["rank"].unique())
    return (zero.encode(x="x:Q") + lines + points).properties(height=max(120, 20 * drawn + 80))


def effects(found: Sequence[Effect], unit: str, words: Words, dark: bool) -> alt.Chart:
    """What leaving out each block does, as a map; darker is more.

    Args:
        unit: of the distances, in words.
    """
    colours = palette(dark)
    rows = pd.DataFrame(
        [
            {
                "q": effect.queries[0],
                "q_end": effect.queries[1] + 1,
                "k": effect.keys[0],
                "k_end": effect.keys[1] + 1,
                "distance": effect.distance,
                "pairs": effect.pairs,
            }
            for effect in found[:RECTS]
        ]
    )
    return (
        alt.Chart(rows)
        .mark_rect(stroke=colours.paper)
        .encode(
            x=alt.X("k:Q", title=words("chart.key_axis"), axis=alt.Axis(orient="top", grid=False)),
            x2="k_end:Q",
            y=alt.Y(
                "q:Q",
                title=words("chart.query_axis"),
                scale=alt.Scale(reverse=True),
                axis=alt.Axis(grid=False),
            ),
            y2="q_end:Q",
            color=alt.Color(
                "distance:Q",
                scale=alt.Scale(range=[colours.dropped, colours.only_a]),
                legend=alt.Legend(title=unit, orient="bottom", gradientLength=140, tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("q:Q", title=words("chart.query_position")),
                alt.Tooltip("k:Q", title=words("chart.key_position")),
                alt.Tooltip("pairs:Q", title=words("effects.pairs")),
                alt.Tooltip("distance:Q", title=unit, format=".4f"),
            ],
        )
        .properties(height=380)
    )
