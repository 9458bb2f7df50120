"""The part of a comparison that is explored: heads, maps, the chosen pair and its texts on both sides.

Whatever is chosen, on either side, ends in one cursor (layer, head, query, key, counted in text A), the
same as on the other pages; side B shows the tokens that stand for it.
"""

import numpy as np
import streamlit as st

from app.charts import difference as difference_charts
from app.charts.palette import palette
from app.components.compare.flips import flips, go_to
from app.components.shared.inspector import inspector
from app.components.shared.maps import (
    choose_token,
    current_frame,
    draw_grid,
    draw_overview,
    draw_window,
    remember,
    selectors,
    start_at,
)
from app.components.shared.message import failure
from app.components.shared.token_strip import token_strip
from app.components.strips.text_strip import pieces, shade
from app.export.provenance import about_pair
from app.live.values import Compared
from app.text import Words
from saa_core.explain.difference import difference_map, difference_rows


@st.fragment
def decisions(compared: Compared, words: Words) -> None:
    """Strips, grid, maps, the chosen pair on both sides, and the list of flips; one cursor."""
    if compared.decisions is None:
        return
    try:
        _decisions(compared, words)
    except Exception as error:
        failure(error, words)


def _decisions(compared: Compared, words: Words) -> None:
    found, alignment, (first, second) = compared.decisions, compared.alignment, compared.traces
    assert found is not None
    assert alignment is not None
    state, dark = st.session_state, st.context.theme.type == "dark"
    st.subheader(words("compare.maps_header"), anchor="pairs")
    st.caption(words("compare.maps_caption"))
    _start_at_a_flip(compared)
    start_at(first)
    measure, size = selectors(first, words, difference_charts.MEASURES, "difference_measure")
    layer, head, q, k = state.layer, state.head, state.q, state.k
    frame = current_frame(first, q, k, size)
    codes = difference_map(first, second, alignment, layer, head)
    left, middle, right = st.columns([20, 33, 47], gap="medium")
    about = about_pair(*compared.traces)
    with right:
        chart = difference_charts.window(first, codes, frame, (q, k), words, dark)
        draw_window(chart, first, frame, words, about, key="differing")
    with left:
        chart = difference_charts.grid(found, measure, (layer, head), words, dark)
        draw_grid(chart, words, about, key="differing-heads")
    with middle:
        share = words.percent(float(found.share[layer, head]), 1)
        draw_overview(
            difference_charts.overview_png(codes, dark),
            first,
            frame,
            [words("compare.overview_caption", share=share)],
            words,
            about,
            key="difference_overview",
            rows=lambda: difference_rows(codes),
        )

    other_q, other_k = alignment.to_second(q), alignment.to_second(k)
    for column, (side, trace) in zip(st.columns(2), {"a": first, "b": second}.items(), strict=True):
        with column:
            at = (q, k) if side == "a" else (other_q, other_k)
            if at[0] is None or at[1] is None:
                with st.container(border=True, height="stretch"):
                    st.markdown(f"**{words('compare.b')}**")
                    st.caption(words("compare.no_counterpart"))
            else:
                inspector(
                    trace,
                    *(layer, head, at[0], at[1], words),
                    key=f"inspector-{side}",
                    title=words(f"compare.{side}"),
                )
            _strip(compared, side, at[0], words)
    flips(compared, words)
    remember(size)


def _start_at_a_flip(compared: Compared) -> None:
    """A comparison that is new to this visitor starts at the decision that differs most."""
    state, found = st.session_state, compared.decisions
    if state.get("compared_cursor") is compared:
        return
    fresh = "compared_cursor" in state or not {"layer", "head", "q", "k"} <= set(state)
    if found is not None and found.flips and fresh and "cursor" not in state:
        go_to(found.flips[0])
    state.compared_cursor = compared


def _strip(compared: Compared, side: str, chosen: int | None, words: Words) -> None:
    """One text; darker where the output moved more. What the chosen token looks at is underlined."""
    trace = compared.traces[side == "b"]
    alignment, moved = compared.alignment, compared.output
    assert alignment is not None
    at = alignment.first if side == "a" else alignment.second
    state, shades = st.session_state, [0.0] * trace.keys
    titles = [words("strip.title_plain", position=position) for position in range(trace.keys)]
    if moved is not None:
        values = moved.output_error if moved.kl is None else moved.kl
        key = "compare.strip_title_error" if moved.kl is None else "compare.strip_title"
        for position, value, tone in zip(at, values, shade(values), strict=True):
            shades[position] = tone
            titles[position] = words(key, position=position, value=float(value))
    kept = ()
    if chosen is not None:
        row = trace.keep_map(state.layer, state.head, np.s_[chosen : chosen + 1, :])
        kept = np.flatnonzero(row)
    colours = palette(st.context.theme.type == "dark")

    def choose() -> None:
        position = state[f"strip-{side}"].token["token"]
        own = position if side == "a" else alignment.to_first(position)
        if own is not None:
            choose_token(compared.traces[0], own)

    token_strip(
        pieces(trace),
        shades=shades,
        titles=titles,
        chosen=-1 if chosen is None else chosen,
        kept=kept,
        label=words(f"compare.strip_{side}"),
        shade_colour=colours.received,
        kept_colour=colours.kept,
        on_choose=choose,
        key=f"strip-{side}",
    )
