"""The part of a result that is explored: token strip, heads, overview, window, chosen pair.

One fragment: choosing a token, head or pair draws this part again and nothing else. Whatever is
clicked ends in the four selectors (layer, head, query, key), which also lie in the address.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from app.charts import head as head_charts
from app.charts import map_picture
from app.charts import pair as pair_charts
from app.charts.pair import Frame, frame_around
from app.charts.palette import palette
from app.components.shared.download import export, export_map, title_line
from app.components.shared.inspector import inspector
from app.components.shared.message import failure
from app.components.shared.pair_map import pair_map
from app.components.strips.text_strip import text_strip
from app.export.formats import Chart, Rows
from app.live.values import Result
from app.state import address as link
from app.text import Words
from saa_core import REASONS, Trace
from saa_core.explain.decisions import decisions

SIZES = (16, 32, 64)
CURSOR = ("layer", "head", "q", "k")


@st.fragment
def maps(result: Result, words: Words) -> None:
    """Strip, maps and inspector of one result; a trace that cannot be read ends in a sentence."""
    try:
        _maps(result, words)
    except Exception as error:
        failure(error, words)


def _maps(result: Result, words: Words) -> None:
    trace, state = result.trace, st.session_state
    start_at(trace)
    has_maps = trace.policy is None or trace.layers is not None

    left, right = st.columns([5, 3], gap="medium")
    with left:
        text_strip(result, words, lambda: choose_token(trace, state.strip.token["token"]))
    if has_maps:
        with right:
            draw_whole_head(trace, state.window_size, words)
    st.subheader(words("maps.header"), anchor="pairs")
    st.caption(words("maps.caption"))
    measure, size = selectors(trace, words)
    if three_maps(trace, measure, size, words, overview=False):
        inspector(trace, state.layer, state.head, state.q, state.k, words)
    remember(size)


def three_maps(
    trace: Trace, measure: str, size: int, words: Words, *, overview: bool = True
) -> bool:
    """Heads, overview and window; False if the trace is a summary, which has only the first.

    Args:
        overview: False where the page draws it elsewhere (:func:`draw_whole_head`).
    """
    state = st.session_state
    dark = st.context.theme.type == "dark"
    layer, head, q, k = state.layer, state.head, state.q, state.k
    left, *middle, right = st.columns([20, 33, 47] if overview else [1, 2], gap="medium")
    has_maps = trace.policy is None or trace.layers is not None
    if has_maps:
        frame = current_frame(trace, q, k, size)
        # First, because it is what a visitor waits for; what is drawn below it comes after.
        with right:
            chart = pair_charts.window(trace, layer, head, frame, (q, k), words, dark)
            shown = pair_charts.parts(frame)
            draw_window(
                chart,
                trace,
                frame,
                words,
                trace,
                key="window",
                rows=lambda: decisions(trace, layer, head, shown),
            )
    with left:
        chart = head_charts.head_grid(trace, measure, (layer, head), words, dark)
        draw_grid(chart, words, trace, key="grid")
    if not has_maps:
        right.info(words("maps.summary"))
        return False
    if middle:
        with middle[0]:
            draw_whole_head(trace, size, words)
    return True


def draw_whole_head(trace: Trace, size: int, words: Words) -> None:
    """The overview of the chosen head, under what it shows."""
    state = st.session_state
    layer, head = state.layer, state.head
    frame = current_frame(trace, state.q, state.k, size)
    density = words.percent(float(trace.density[layer, head]), 1)
    captions = [words("maps.overview_caption", density=density)]
    step = -(-trace.keys // map_picture.PICTURE)
    if step > 1:
        captions.append(words("maps.pooled", step=step))
    draw_overview(
        overview_of(trace, layer, head, st.context.theme.type == "dark"),
        trace,
        frame,
        captions,
        words,
        trace,
        key="overview",
        rows=lambda: decisions(trace, layer, head),
    )


def draw_window(
    chart: Chart,
    trace: Trace,
    frame: Frame,
    words: Words,
    about: Mapping[str, Any] | Trace,
    *,
    key: str,
    rows: Callable[[], Rows] | None = None,
) -> None:
    """The window of the chosen head; a click chooses its pair.

    Args:
        about: what an exported file says where it comes from.
        key: of the chart, once per page.
        rows: what is exported, by default what the chart shows.
    """
    state = st.session_state
    own = f"{key}-{state.get('moves', 0)}-{frame.q}-{frame.k}-{state.layer}-{state.head}"
    with title_line():
        st.markdown(f"**{words('maps.window')}**", width="content")
        export("window", words("maps.window"), words, about, chart=chart, rows=rows)
    st.altair_chart(
        chart,
        key=own,
        on_select=lambda: choose_pair(trace, state[own]),
        selection_mode="pair",
    )


def draw_grid(chart: Chart, words: Words, about: Mapping[str, Any] | Trace, *, key: str) -> None:
    """Every head of every layer; a click chooses one. Arguments as of :func:`draw_window`."""
    state = st.session_state
    own = f"{key}-{state.get('grid_moves', 0)}"
    with title_line():
        st.markdown(f"**{words('maps.heads')}**", width="content")
        export("heads", words("maps.heads"), words, about, chart=chart)
    st.altair_chart(
        chart,
        key=own,
        on_select=lambda: choose_head(state[own]),
        selection_mode="cell",
    )


def draw_overview(
    image: bytes,
    trace: Trace,
    frame: Frame,
    captions: Sequence[str],
    words: Words,
    about: Mapping[str, Any] | Trace,
    *,
    key: str,
    rows: Callable[[], Rows],
) -> None:
    """All pairs of the chosen head; a click moves the window. Arguments as of :func:`draw_window`."""
    state = st.session_state
    title = words("maps.overview", layer=state.layer, head=state.head)
    with title_line():
        st.markdown(f"**{title}**", width="content")
        export_map("map", title, words, trace, image=image, about=about, rows=rows)
    pair_map(
        image,
        tokens=trace.keys,
        frame=(frame.q, frame.k, frame.size),
        chosen=(state.q, state.k),
        label=words("maps.overview_label"),
        colour=palette(st.context.theme.type == "dark").ink,
        on_choose=lambda: choose_region(trace, state[key].pair),
        key=key,
    )
    for caption in captions:
        st.caption(caption)


def remember(size: int) -> None:
    """The cursor goes into the address and to the other pages."""
    state = st.session_state
    state.cursor = {name: state[name] for name in CURSOR}
    link.write(**state.cursor, window=size)


def selectors(
    trace: Trace, words: Words, measures: Sequence[str] = (), key: str = "measure"
) -> tuple[str, int]:
    """The twins of every click, and what the maps show; returns (measure, window size).

    Args:
        measures: what the grid of heads can show; by default all that the trace has.
        key: of the choice among them.
    """
    L, H = trace.shape
    ends = {"layer": L - 1, "head": H - 1, "q": trace.queries - 1, "k": trace.keys - 1}
    columns = st.expander(words("maps.by_number")).columns(6)
    for column, (name, end) in zip(columns, ends.items(), strict=False):
        column.number_input(
            f"{words(f'maps.{name}')} (0–{end})",
            min_value=0,
            max_value=end,
            step=1,
            key=name,
            on_change=bump,
        )
    measure: str = columns[4].selectbox(
        words("maps.colour_by"),
        measures or head_charts.measures(trace),
        format_func=lambda name: words(f"maps.{name}"),
        key=key,
    )
    size: int = columns[5].selectbox(
        words("maps.window_size"),
        SIZES,
        key="window_size",
        on_change=forget_frame,
    )
    return measure, size


def state_size() -> int:
    """Window size that the address asked for, or the middle one."""
    wanted = st.session_state.get("window")
    return wanted if wanted in SIZES else SIZES[1]


def start_at(trace: Trace) -> None:
    """Puts the choice inside this trace; a new visitor starts at a pair that the gate kept."""
    state = st.session_state
    L, H = trace.shape
    ends = {"layer": L, "head": H, "q": trace.queries, "k": trace.keys}
    if link.went_back():  # the address has put the cursor elsewhere
        state.window_size = state_size()
        forget_frame()
        bump()
    for name in set(state.get("cursor", {})) - set(state):
        state[name] = state.cursor[name]  # another page drew the widgets last
    for name, end in ends.items():
        if not 0 <= state.get(name, -1) < end:
            state.pop(name, None)
    state.setdefault("window_size", state_size())
    layer, head = head_charts.selective_head(trace, state.get("layer"))
    state.setdefault("layer", layer)
    state.setdefault("head", head)
    if "q" not in state or "k" not in state:
        state.q, state.k = start_pair(trace, state.layer, state.head)
    # Widgets in a fragment lose their value if the page is drawn without them; this keeps it.
    for name in (*ends, "window_size"):
        state[name] = state[name]


def start_pair(trace: Trace, layer: int, head: int) -> tuple[int, int]:
    """The pair with the highest score among those that the gate itself kept."""
    if trace.policy is None or trace.layers is None:
        return trace.queries - 1, 0
    kept = trace.reason_map(layer, head) == REASONS.index("gate")
    score = np.where(kept, trace.score_map(layer, head), -1)
    if not kept.any():
        return trace.queries - 1, 0
    q, k = np.unravel_index(score.argmax(), score.shape)
    return int(q), int(k)


def strongest(trace: Trace, layer: int, head: int, q: int) -> int:
    """The key with the highest score that the gate itself kept for a query; else the query."""
    if trace.policy is None or trace.layers is None:
        return q
    row = np.s_[q : q + 1, :]
    codes, score = trace.reason_map(layer, head, row)[0], trace.score_map(layer, head, row)[0]
    score = np.where(codes == REASONS.index("gate"), score, -1)
    return int(score.argmax()) if score.max() > 0 else q


def bump(grid: bool = True) -> None:
    """A chart that is asked twice for the same cell stays silent; a new key makes it new.

    Args:
        grid: the grid of heads too, which is slow to draw and stays where only a pair was chosen.
    """
    state = st.session_state
    state.moves = state.get("moves", 0) + 1
    if grid:
        state.grid_moves = state.get("grid_moves", 0) + 1


def choose_head(event: object) -> None:
    points = event["selection"].get("cell")  # type: ignore[index]
    if points:
        st.session_state.layer, st.session_state.head = (
            int(points[0]["layer"]),
            int(points[0]["head"]),
        )
        bump()


def choose_pair(trace: Trace, event: object) -> None:
    points = event["selection"].get("pair")  # type: ignore[index]
    if points:
        q, k = int(points[0]["q"]), int(points[0]["k"])
        if 0 <= q < trace.queries and 0 <= k < trace.keys:
            st.session_state.q, st.session_state.k = q, k
            bump(grid=False)


def choose_token(trace: Trace, q: int) -> None:
    state = st.session_state
    state.q = min(max(0, int(q)), trace.queries - 1)
    state.k = strongest(trace, state.layer, state.head, state.q)
    bump()


def choose_region(trace: Trace, pair: dict[str, int]) -> None:
    state = st.session_state
    state.q = min(max(0, int(pair["q"])), trace.queries - 1)
    state.k = min(max(0, int(pair["k"])), trace.keys - 1)
    forget_frame()
    bump(grid=False)


def forget_frame() -> None:
    st.session_state.pop("frame", None)


def current_frame(trace: Trace, q: int, k: int, size: int) -> Frame:
    """The window stays where it is for as long as the chosen pair lies in it."""
    frame: Frame | None = st.session_state.get("frame")
    fits = frame is not None and frame.size == min(size, trace.keys)
    if not fits or not frame.holds(q, k) or max(frame.q, frame.k) + frame.size > trace.keys:
        frame = frame_around(q, k, size, trace.keys)
        st.session_state.frame = frame
    return frame


def overview_of(trace: Trace, layer: int, head: int, dark: bool) -> bytes:
    """The picture, kept as long as trace, head and theme are the same."""
    wanted = (layer, head, dark)
    kept = st.session_state.get("picture")
    if kept is None or kept[0] is not trace or kept[1] != wanted:
        kept = (trace, wanted, map_picture.overview_png(trace, layer, head, dark))
        st.session_state.picture = kept
    return kept[2]
