"""The decisions of two runs that differ most, as a list and as margins; a row moves the cursor there."""

import pandas as pd
import streamlit as st

from app.charts import difference as difference_charts
from app.charts.token_labels import labels
from app.components.shared.download import export
from app.components.shared.maps import bump
from app.export.provenance import about_pair
from app.live.values import Compared
from app.text import Words
from saa_core.explain.difference import Flip


def flips(compared: Compared, words: Words) -> None:
    """The decisions that differ, ranked; choosing a row moves the cursor there."""
    found, state = compared.decisions, st.session_state
    assert found is not None
    st.subheader(words("compare.flips_header"), anchor="flips")
    if not found.flips:
        st.caption(words("compare.no_flips"))
        return
    st.caption(words("compare.flips_caption", shown=len(found.flips)))
    here = st.toggle(words("compare.this_head"), key="this_head")
    shown = [
        flip
        for flip in found.flips
        if not here or (flip.layer, flip.head) == (state.layer, state.head)
    ]
    if not shown:
        st.caption(words("compare.no_flips_here"))
        return
    names = labels(compared.traces[0])
    table, drawn = st.columns([13, 7], gap="medium")
    rows = pd.DataFrame([_row(flip, names, words) for flip in shown])
    if compared.traces[0].block == compared.traces[1].block == (1, 1):
        rows = rows.drop(columns=words("compare.pairs"))  # each is one
    key = f"flips-{here}-{state.get('moves', 0)}"
    with table:
        st.dataframe(
            rows,
            hide_index=True,
            width="stretch",
            height=480,
            key=key,
            on_select=lambda: _choose_flip(shown, state[key]),
            selection_mode="single-row",
        )
        export(
            "flips", words("compare.flips_header"), words, about_pair(*compared.traces), rows=rows
        )
    with drawn:
        dark = st.context.theme.type == "dark"
        titles = [
            f"{names[flip.query]} → {names[flip.key]} ({flip.layer}·{flip.head})" for flip in shown
        ]
        chart = difference_charts.margins(shown, titles, words, dark)
        st.altair_chart(chart, key="margins")
        export(
            "margins",
            words("compare.flips_header"),
            words,
            about_pair(*compared.traces),
            chart=chart,
        )


def _row(flip: Flip, names: list[str], words: Words) -> dict[str, object]:
    def margin(value: float | None) -> str:
        return "–" if value is None else words.signed(value, 2)

    return {
        words("chart.layer"): flip.layer,
        words("chart.head"): flip.head,
        words("chart.query"): f"{names[flip.query]} ({flip.query})",
        words("chart.key"): f"{names[flip.key]} ({flip.key})",
        words("compare.kept_by"): "A" if flip.kept_first else "B",
        words("compare.margin_a"): margin(flip.margin_first),
        words("compare.margin_b"): margin(flip.margin_second),
        words("compare.pairs"): flip.pairs,
    }


def _choose_flip(shown: list[Flip], event: object) -> None:
    rows = event["selection"]["rows"]  # type: ignore[index]
    if rows:
        go_to(shown[rows[0]])
        bump()


def go_to(flip: Flip) -> None:
    """Moves the cursor of the page."""
    state = st.session_state
    state.layer, state.head, state.q, state.k = flip.layer, flip.head, flip.query, flip.key
