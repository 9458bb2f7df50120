"""A window of the map, pair by pair: which were kept, why, and with which score. Pure: no streamlit."""

from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from app.charts.palette import FORCED, RECTS, palette
from app.charts.token_labels import labels, prefix
from app.text import Words
from saa_core import REASONS, Trace

WINDOW = 64


@dataclass(frozen=True)
class Frame:
    """A square window of the map: its first query, first key and size in tokens."""

    q: int
    k: int
    size: int

    def holds(self, q: int, k: int) -> bool:
        return self.q <= q < self.q + self.size and self.k <= k < self.k + self.size


def frame_around(q: int, k: int, size: int, tokens: int) -> Frame:
    """The window with a pair in its middle, moved to lie inside the map."""
    size = min(size, WINDOW, tokens)
    start = (min(max(0, at - size // 2), tokens - size) for at in (q, k))
    return Frame(*start, size)


def parts(frame: Frame) -> tuple[slice, slice]:
    """The window as slices of a map."""
    return slice(frame.q, frame.q + frame.size), slice(frame.k, frame.k + frame.size)


def window(
    trace: Trace,
    layer: int,
    head: int,
    frame: Frame,
    chosen: tuple[int, int],
    words: Words,
    dark: bool,
) -> alt.Chart:
    """Every pair of a window, at most 64 x 64. A click selects (q, k) under the name "pair"."""
    colours = palette(dark)
    rows = window_rows(trace, layer, head, frame, chosen, words)
    kinds = {
        words("chart.kept_gate"): colours.kept,
        words("chart.kept_always"): colours.kept_always,
        words("chart.dropped"): colours.dropped,
    }
    tooltip = [
        alt.Tooltip("reason:N", title=words("chart.reason")),
        alt.Tooltip("score_text:N", title=words("chart.score")),
        alt.Tooltip("threshold_text:N", title=words("chart.threshold")),
    ]
    return pairs_chart(rows, trace, frame, kinds, tooltip, words, dark)


def window_rows(
    trace: Trace, layer: int, head: int, frame: Frame, chosen: tuple[int, int], words: Words
) -> pd.DataFrame:
    """One row per allowed pair of a window: tokens, score, threshold, reason in words."""
    part = parts(frame)
    rows = pair_rows(trace, trace.allowed(layer, part), frame, chosen)
    q, k = rows.q.to_numpy(), rows.k.to_numpy()
    at = q - frame.q, k - frame.k
    reasons = [REASONS[code] for code in trace.reason_map(layer, head, part)[at]]
    thresholds = trace.decision(layer, head).threshold[q // trace.block[0]]
    rows["kind"] = [words(f"chart.{_kind(reason)}") for reason in reasons]
    rows["reason"] = [reason_text(reason, words) for reason in reasons]
    scores = trace.score_map(layer, head, part)[at]
    rows["score_text"] = [words.percent(float(x), 2) for x in scores]
    rows["threshold_text"] = [threshold_text(float(x), words) for x in thresholds]
    return rows


def pair_rows(
    trace: Trace, shown: NDArray[np.bool_], frame: Frame, chosen: tuple[int, int]
) -> pd.DataFrame:
    """One row per pair of a window that is shown: positions, tokens, whether it is the chosen one."""
    if frame.size * frame.size > RECTS:
        raise ValueError(f"frame.size={frame.size} is more than {WINDOW} tokens")
    names = labels(trace)
    q, k = np.nonzero(shown)
    q, k = q + frame.q, k + frame.k
    return pd.DataFrame(
        {
            "q": q,
            "k": k,
            "query": [prefix(at, names) for at in q],
            "key": [prefix(at, names) for at in k],
            "q_token": [names[at] for at in q],
            "k_token": [names[at] for at in k],
            "chosen": [(int(a), int(b)) == chosen for a, b in zip(q, k, strict=True)],
        }
    )


def pairs_chart(
    rows: pd.DataFrame,
    trace: Trace,
    frame: Frame,
    kinds: dict[str, str],
    tooltip: list[alt.Tooltip],
    words: Words,
    dark: bool,
) -> alt.Chart:
    """Pairs of a window one by one; a click selects (q, k) as "pair".

    Args:
        rows: as of :func:`pair_rows`, with "kind".
        kinds: colour of each kind.
    """
    colours = palette(dark)
    rows = rows.sort_values("chosen", kind="stable")  # drawn last, its frame lies on top
    names = labels(trace)
    side = range(frame.size)
    q_names = [prefix(frame.q + at, names) for at in side if frame.q + at < trace.queries]
    k_names = [prefix(frame.k + at, names) for at in side if frame.k + at < trace.keys]
    step = 480 / frame.size
    axis: dict[str, Any] = {
        "labelExpr": "slice(datum.label, 6)",
        "labelFontSize": max(7, min(11, step - 2)),
        "labelLimit": 80,
        "ticks": False,
        "domain": False,
        "labelOverlap": False,
    }
    pair = alt.selection_point(name="pair", fields=["q", "k"], empty=False, toggle=False)
    return (
        alt.Chart(rows)
        .mark_rect(cursor="pointer")
        .encode(
            x=alt.X(
                "key:O",
                title=words("chart.key_axis"),
                scale=alt.Scale(domain=k_names),
                axis=alt.Axis(labelAngle=-90, orient="top", **axis),
            ),
            y=alt.Y(
                "query:O",
                title=words("chart.query_axis"),
                scale=alt.Scale(domain=q_names),
                axis=alt.Axis(**axis),
            ),
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=list(kinds), range=list(kinds.values())),
                legend=alt.Legend(title=None, orient="bottom", columns=2, labelLimit=300),
            ),
            stroke=alt.condition("datum.chosen", alt.value(colours.ink), alt.value(colours.paper)),
            strokeWidth=alt.condition(
                "datum.chosen", alt.value(2.5), alt.value(0.3 if step < 12 else 0.8)
            ),
            tooltip=[
                alt.Tooltip("q_token:N", title=words("chart.query")),
                alt.Tooltip("k_token:N", title=words("chart.key")),
                *tooltip,
                alt.Tooltip("q:Q", title=words("chart.query_position"), format="d"),
                alt.Tooltip("k:Q", title=words("chart.key_position"), format="d"),
            ],
        )
        .add_params(pair)
        .properties(height=560)
    )


def threshold_text(threshold: float, words: Words) -> str:
    """A row in which the pairs that are always kept are enough has no threshold: nothing passes."""
    return words.percent(threshold, 2) if np.isfinite(threshold) else words("chart.no_threshold")


def _kind(reason: str) -> str:
    if reason in FORCED:
        return "kept_always"
    return "kept_gate" if reason == "gate" else "dropped"


def reason_text(reason: str, words: Words) -> str:
    return words(f"reason.{reason.replace(' ', '_')}")
