"""Trace -> Altair chart or PNG bytes. Pure: no streamlit; words and theme come as arguments.

Blue is a kept pair, grey a dropped one, nothing is drawn where the model may not look. Browsers
freeze on huge charts, so no chart here has more than `RECTS` marks; larger maps are pooled into a
picture in which no kept pair vanishes.
"""

import collections
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from text import Words

import saa_core as saa
from saa_core import REASONS, Timing, Trace
from saa_core.costs import Saving
from saa_core.tradeoff import Point

RECTS = 4096
CONTINUED = "·"
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
"""A token that only continues a character, in the strip and by number."""
LABELS = 6
"""Labels whose probability is drawn."""
ARCS = 60
NAMED = 12
"""Arcs drawn for one token, and how many of their ends are named."""
WINDOW = 64
PICTURE = 512
FAINTEST = 0.3
"""Share of full blue that a cell with a single kept pair among many gets."""
FORCED = ("sink", "local", "tail", "forced", "probe", "dense")


@dataclass(frozen=True)
class Palette:
    """Okabe and Ito's colours for one theme."""

    kept: str
    kept_always: str
    dropped: str
    received: str
    retained: str
    changed: str
    only_a: str
    only_b: str
    ink: str
    paper: str


LIGHT = Palette(
    "#0072B2",
    "#7FB8D8",
    "#DFE3E7",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#CC79A7",
    "#1B2430",
    "#FFFFFF",
)
DARK = Palette(
    "#56B4E9",
    "#2F6E96",
    "#313842",
    "#E69F00",
    "#2BC498",
    "#CC79A7",
    "#FF8A4C",
    "#E3A1C4",
    "#E6EAEE",
    "#12161C",
)


def label_bars(dense: Trace | None, trace: Trace, words: Words, dark: bool) -> alt.Chart:
    """Probability of the likeliest labels, dense beside SAA."""
    colours = palette(dark)
    sides = {words("labels.saa"): trace}
    if dense is not None:
        sides = {words("labels.dense"): dense} | sides
    return bars_of_labels(sides, [colours.received, colours.kept][-len(sides) :], words)


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
    assert trace.alive is not None
    rows = [
        {"layer": index, "tokens": int(alive.sum()), "chosen": index == layer}
        for index, alive in enumerate(trace.alive)
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


def palette(dark: bool) -> Palette:
    return DARK if dark else LIGHT


def labels(trace: Trace) -> list[str]:
    """What each token looks like to a reader: its characters, white space made visible.

    Tokens that share a character, as in Japanese, are numbered: "朝₁", "朝₂".
    """
    if trace.text is not None and trace.offsets is not None:
        raw = [trace.text[start:end] for start, end in trace.offsets]
        shared = collections.Counter(trace.offsets)
        seen: collections.Counter[tuple[int, int]] = collections.Counter()
        for at, place in enumerate(trace.offsets):
            if shared[place] > 1 and place[1] > place[0]:
                seen[place] += 1
                raw[at] += str(seen[place]).translate(SUBSCRIPTS)
    elif trace.tokens is not None:
        raw = [
            token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for token in trace.tokens
        ]
    else:
        raw = [str(token) for token in trace.token_ids]
    return [visible(token) for token in raw]


def visible(token: str) -> str:
    bare = token.strip(" ")
    bare = bare.replace("\r", "").replace("\n", "↵").replace("\t", "→")
    return bare or "␣"


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


def _sink_share(trace: Trace) -> NDArray[np.float64]:
    sink = trace.policy.sink if trace.policy is not None else saa.Policy().sink
    received = np.asarray(trace.received, np.float64)[:, :, :sink]
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
    top = {"density": colours.kept, "retained": colours.retained}.get(measure, colours.received)
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


def overview_png(trace: Trace, layer: int, head: int, dark: bool) -> bytes:
    """The whole map of one head, at most 512 x 512 dots; transparent where nothing is allowed.

    Longer texts are pooled: a dot's blue is the kept share of its allowed pairs, and never fainter
    than `FAINTEST` if one of them is kept.
    """
    colours = palette(dark)
    codes = trace.reason_map(layer, head)
    always = np.isin(codes, [REASONS.index(reason) for reason in FORCED])
    allowed, kept = pool(trace.allowed(layer)), pool(trace.keep_map(layer, head))
    share = (kept / np.maximum(allowed, 1))[..., None]
    strength = np.where(share > 0, FAINTEST + (1 - FAINTEST) * share, 0)
    forced = (pool(always) / np.maximum(kept, 1))[..., None]
    blue = (1 - forced) * rgb(colours.kept) + forced * rgb(colours.kept_always)
    mixed = (1 - strength) * rgb(colours.dropped) + strength * blue
    alpha = np.where(allowed > 0, 255, 0)[..., None]
    picture = Image.fromarray(np.concatenate([mixed, alpha], -1).round().astype(np.uint8), "RGBA")
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def pool(pairs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of True pairs per dot of the picture; every pair is counted."""
    step = -(-max(pairs.shape) // PICTURE)
    if step == 1:
        return pairs.astype(np.int64)
    tall, wide = (-size % step for size in pairs.shape)
    padded = np.pad(pairs, ((0, tall), (0, wide)))
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    return padded.reshape(rows, step, columns, step).sum((1, 3), dtype=np.int64)


def rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.float64)


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
    q_names = [prefixed(frame.q + at, names) for at in side if frame.q + at < trace.queries]
    k_names = [prefixed(frame.k + at, names) for at in side if frame.k + at < trace.keys]
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
    rows["reason"] = [words(f"reason.{_key(reason)}") for reason in reasons]
    scores = trace.score_map(layer, head, part)[at]
    rows["score_text"] = [words.percent(float(x), 2) for x in scores]
    rows["threshold_text"] = [threshold_text(float(x), words) for x in thresholds]
    return rows


def parts(frame: Frame) -> tuple[slice, slice]:
    """The window as slices of a map."""
    return slice(frame.q, frame.q + frame.size), slice(frame.k, frame.k + frame.size)


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
            "query": [prefixed(at, names) for at in q],
            "key": [prefixed(at, names) for at in k],
            "q_token": [names[at] for at in q],
            "k_token": [names[at] for at in k],
            "chosen": [(int(a), int(b)) == chosen for a, b in zip(q, k, strict=True)],
        }
    )


def threshold_text(threshold: float, words: Words) -> str:
    """A row in which the pairs that are always kept are enough has no threshold: nothing passes."""
    return words.percent(threshold, 2) if np.isfinite(threshold) else words("chart.no_threshold")


def _kind(reason: str) -> str:
    if reason in FORCED:
        return "kept_always"
    return "kept_gate" if reason in ("gate", "dense") else "dropped"


def _key(reason: str) -> str:
    return reason.replace(" ", "_")


def prefixed(position: int, names: list[str]) -> str:
    """Repeated tokens stay apart; the axis cuts the first six characters off."""
    return f"{position:05d} {names[position]}"


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
                    "reason": words(f"reason.{_key(REASONS[codes[other]])}"),
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
            color=alt.condition("datum.own", alt.value(colours.received), alt.value(colours.ink)),
        )
    )
    return (lines + marks).properties(height=230), len(drawn), len(others)


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
            scale=alt.Scale(domain=list(kinds.values()), range=[colours.kept, colours.received]),
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
                    range=[colours.kept, colours.changed, colours.received],
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
                range=[colours.changed, colours.received, colours.kept],
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
            scale=alt.Scale(domain=list(sides.values()), range=[colours.received, colours.kept]),
            legend=alt.Legend(orient="top"),
        ),
    )
    spread = base.mark_rule(color=colours.ink, strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    return (bars + spread).properties(height=260)
