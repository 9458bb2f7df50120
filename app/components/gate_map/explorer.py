"""The gate map: selectors, grid of heads, overview, window, arcs of one token, one pair in full.

One fragment, like the small maps of Explore, whose parts it uses; both share one cursor.
"""

import streamlit as st

from app.charts.arc import arcs
from app.charts.token_labels import labels
from app.components.gate_map import intervene
from app.components.shared.download import titled
from app.components.shared.inspector import details, inspector
from app.components.shared.maps import remember, selectors, start_at, three_maps
from app.components.shared.message import failure
from app.live.values import Result
from app.service import Client
from app.state import session
from app.text import Words
from saa_core.explain.decisions import decisions


@st.fragment
def explorer(result: Result, choice: session.Choice, client: Client, words: Words) -> None:
    """Draws the page's body; a trace that cannot be read ends in a sentence."""
    try:
        _explorer(result, choice, client, words)
    except Exception as error:
        failure(error, words)


def _explorer(result: Result, choice: session.Choice, client: Client, words: Words) -> None:
    trace, state = result.trace, st.session_state
    start_at(trace)
    measure, size = selectors(trace, words)
    st.caption(words(f"gate_map.about_{measure}"))
    if three_maps(trace, measure, size, words):
        inspector(trace, state.layer, state.head, state.q, state.k, words)
        if trace.policy is not None:
            intervene.person(result, words)
            details(result, choice, client, state.layer, state.head, state.q, state.k, words)
        _arcs(result, words)
        if trace.policy is not None:
            intervene.ranking(result, client, words)
    remember(size)


def _arcs(result: Result, words: Words) -> None:
    trace, state = result.trace, st.session_state
    dark = st.context.theme.type == "dark"
    place = st.container()
    side = st.segmented_control(
        words("arcs.side"),
        ("reads", "read_by"),
        default="reads",
        required=True,
        format_func=lambda name: words(f"arcs.{name}"),
        key="arcs_side",
    )
    token = state.q if side == "reads" else state.k
    layer, head = state.layer, state.head
    chart, drawn, kept = arcs(trace, layer, head, token, side == "reads", words, dark)
    name = labels(trace)[token]
    st.caption(words(f"arcs.{side}_caption", token=name, position=token, drawn=drawn, kept=kept))
    st.altair_chart(chart, key="arcs")
    row = slice(token, token + 1)
    part = (row, slice(None)) if side == "reads" else (slice(None), row)
    with place:
        titled(
            "arcs",
            words("arcs.header"),
            words,
            trace,
            chart=chart,
            rows=lambda: decisions(trace, layer, head, part),
        )
