"""The grid of heads: one cell per layer and head, coloured by one share. Pure: no streamlit."""

import functools

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import saa_core as saa
from app.charts.palette import RECTS, palette
from app.text import Words
from saa_core import Trace


def measures(trace: Trace) -> list[str]:
    """What the grid of heads can show of this trace."""
    found = ["density"]
    if trace.retained_mass is not None:
        found += ["retained", "sink"]
    if trace.policy is not None and trace.layers is not None:
        found.append("near")
    return found


@functools.lru_cache(maxsize=16)
def head_values(trace: Trace, measure: str) -> NDArray[np.float64]:
    """One share per layer and head, [L, H].

    Args:
        measure: "density" and "retained" as the trace has them; "sink" is the share of the dense
            model's attention on the first `sink` tokens; "near" is 1 minus the mean distance of
            kept pairs over that of allowed pairs, so 0 is as far as chance and 1 is next door.
    """
    if measure == "density":
        return trace.density.astype(np.float64)
    if measure == "retained":
        return np.asarray(trace.retained_mass, np.float64)
    if measure == "sink":
        return _sink_share(trace)
    return np.stack([_nearness(trace, layer) for layer in range(trace.shape[0])])


OWN_SHARE = 0.15
"""Pairs, as a share of the allowed ones, that a selective head keeps beyond what the sparsest head keeps."""


def selective_head(trace: Trace, within: int | None = None) -> tuple[int, int]:
    """(layer, head) in which the gate's choice is easiest to see: neither one that looks only nearby nor
    one that looks nearly everywhere.

    Args:
        within: the layer to choose in; None is any.
    """
    away = np.abs(trace.density - trace.density.min() - OWN_SHARE)
    if within is not None:
        return within, int(away[within].argmin())
    layer, head = np.unravel_index(int(away.argmin()), trace.shape)
    return int(layer), int(head)


def _sink_share(trace: Trace) -> NDArray[np.float64]:
    sink = trace.policy.sink if trace.policy is not None else saa.Policy().sink
    received = np.asarray(trace.attention_received, np.float64)[:, :, :sink]
    viewers = np.stack(
        [trace.allowed(layer, np.s_[:, :sink]).sum(0) for layer in range(trace.shape[0])]
    )
    return np.clip((received * viewers[:, None]).sum(2) / trace.queries, 0, 1)


def _nearness(trace: Trace, layer: int) -> NDArray[np.float64]:
    bq, bk = trace.block
    count = trace.allowed_count(layer)
    starts = np.arange(0, trace.keys, bk)
    middle_q = np.minimum(np.arange(0, trace.queries, bq) + bq / 2, trace.queries)
    away = np.abs(middle_q[:, None] - (starts + bk / 2)) * count
    chance = away.sum() / max(count.sum(), 1)
    found = []
    for head in range(trace.shape[1]):
        keep = trace.decision(layer, head).keep
        mean = (away * keep).sum() / max((count * keep).sum(), 1)
        found.append(1 - mean / max(chance, 1e-9))
    return np.clip(np.array(found), 0, 1)


def head_grid(
    trace: Trace, measure: str, chosen: tuple[int, int], words: Words, dark: bool
) -> alt.Chart:
    """One cell per layer and head. A click selects (layer, head) under the name "cell".

    Args:
        measure: one of `measures`.
    """
    colours = palette(dark)
    retained = trace.retained_mass
    table = head_values(trace, measure)
    L, H = trace.shape
    rows = pd.DataFrame(
        {
            "layer": np.repeat(np.arange(L), H),
            "head": np.tile(np.arange(H), L),
            "kept": trace.density.ravel().astype(float),
            "held": (retained if retained is not None else trace.density * np.nan)
            .ravel()
            .astype(float),
            "value": table.ravel().astype(float),
        }
    ).head(RECTS)
    rows["chosen"] = (rows.layer == chosen[0]) & (rows["head"] == chosen[1])
    top = {"sink": colours.received, "retained": colours.retained}.get(measure, colours.kept)
    low = 0.0 if measure != "retained" else float(np.floor(table.min() * 20) / 20)
    tooltip = [
        alt.Tooltip("layer:O", title=words("chart.layer")),
        alt.Tooltip("head:O", title=words("chart.head")),
        alt.Tooltip("kept:Q", title=words("chart.density"), format=".1%"),
    ]
    if retained is not None:
        tooltip.append(alt.Tooltip("held:Q", title=words("chart.retained"), format=".1%"))
    if measure in ("sink", "near"):
        tooltip.append(alt.Tooltip("value:Q", title=words(f"maps.{measure}"), format=".1%"))
    return grid_of_heads(rows, tooltip, (low, 1.0, top), words, dark)


def grid_of_heads(
    rows: pd.DataFrame,
    tooltip: list[alt.Tooltip],
    scale: tuple[float, float, str],
    words: Words,
    dark: bool,
) -> alt.Chart:
    """One cell per row (layer, head, value, chosen). A click selects (layer, head) as "cell".

    Args:
        scale: value at which the colour is that of a dropped pair, highest value, and its colour.
    """
    colours, (low, high, top) = palette(dark), scale
    rows = rows.sort_values("chosen", kind="stable")  # drawn last, its frame lies on top
    L = int(rows.layer.max()) + 1
    cell = alt.selection_point(name="cell", fields=["layer", "head"], empty=False, toggle=False)
    return (
        alt.Chart(rows)
        .mark_rect(cursor="pointer")
        .encode(
            x=alt.X("head:O", title=words("chart.head"), axis=alt.Axis(labelAngle=0, orient="top")),
            y=alt.Y("layer:O", title=words("chart.layer")),
            color=alt.Color(
                "value:Q",
                scale=alt.Scale(domain=[low, high], range=[colours.dropped, top]),
                legend=alt.Legend(
                    title=None, orient="bottom", format=".0%", gradientLength=100, tickCount=3
                ),
            ),
            stroke=alt.condition("datum.chosen", alt.value(colours.ink), alt.value(colours.paper)),
            strokeWidth=alt.condition("datum.chosen", alt.value(2.5), alt.value(1)),
            tooltip=tooltip,
        )
        .add_params(cell)
        .properties(height=max(240, 15 * L))  # axes and legend lie inside
    )
