"""Two runs beside each other: sentence, figures, texts, outputs, and the decisions that differ.

Whatever is chosen, on either side, ends in one cursor (layer, head, query, key, counted in text A), the
same as on the other pages; side B shows the tokens that stand for it.
"""

import charts
import difference_charts
import numpy as np
import pandas as pd
import session
import streamlit as st
from text import Words, plain

from components.inspector import inspector
from components.maps import (
    bump,
    choose_head,
    choose_pair,
    choose_region,
    choose_token,
    current_frame,
    pieces,
    remember,
    selectors,
    shade,
    start_at,
)
from components.message import failure
from components.pair_map import pair_map
from components.sections import mark
from components.token_strip import token_strip
from saa_core import Trace
from saa_core.difference import Flip, difference_map

MOVED = 8
"""Positions listed at which the output moved most."""


def verdict(compared: session.Compared, words: Words) -> None:
    """One sentence: how much was decided differently, and whether the outcome is the same."""
    first, second = compared.traces
    if compared.decisions is None:
        st.header(words("compare.verdict_apart"), anchor="verdict")
        st.info(words("compare.apart"))
        return
    differs = words.percent(_differing(compared))
    if first.labels is not None and first.labels == second.labels:
        same = first.label == second.label
        outcome = words(
            "compare.label_same" if same else "compare.label_differs",
            a=plain(first.label or ""),
            b=plain(second.label or ""),
        )
    elif compared.output is not None and compared.output.top1_agreement is not None:
        share = float(compared.output.top1_agreement.mean())
        outcome = words("compare.next_share", share=words.percent(share))
    else:
        assert compared.output is not None
        outcome = words("verdict.embedding", cosine=compared.output.embedding_cosine)
    st.header(words("compare.verdict", share=differs, outcome=outcome), anchor="verdict")


def _differing(compared: session.Compared) -> float:
    found = compared.decisions
    assert found is not None
    total = int(found.pairs.sum()) * found.both.shape[1]
    return int((found.only_first + found.only_second).sum()) / max(total, 1)


def figures(compared: session.Compared, words: Words) -> None:
    """What each side kept and said, as one table with a column per side."""
    rows = [(words(f"compare.row_{name}"), *values) for name, values in _rows(compared, words)]
    titles = [words("measured.row"), words("compare.a"), words("compare.b")]
    st.dataframe(pd.DataFrame(rows, columns=titles), hide_index=True, width="stretch")
    found = compared.decisions
    if found is None:
        return
    pairs = max(int(found.pairs.sum()) * found.both.shape[1], 1)
    st.caption(
        words(
            "compare.counted",
            pairs=pairs,
            only_a=words.percent(int(found.only_first.sum()) / pairs, 1),
            only_b=words.percent(int(found.only_second.sum()) / pairs, 1),
            both=words.percent(int(found.both.sum()) / pairs, 1),
        )
    )


def _rows(compared: session.Compared, words: Words) -> list[tuple[str, tuple[str, str]]]:
    missing = words("measured.not_recorded")

    def of(trace: Trace) -> dict[str, str]:
        held = trace.retained_mass
        return {
            "model": f"{trace.model.name}, {trace.model.gate}"
            + ("" if trace.model.trained else f" ({words('sidebar.untrained')})"),
            "policy": words("measured.policy_dense") if trace.policy is None else str(trace.policy),
            "tokens": f"{trace.keys:,}",
            "kept": words.percent(1 - trace.sparsity, 1),
            "held": missing if held is None else words.percent(float(held.mean()), 1),
            "label": ""
            if trace.label_probs is None
            else f"{trace.label} ({words.percent(float(trace.label_probs.max()), 1)})",
            "work": words.percent(trace.token_share, 1),
        }

    a, b = (of(trace) for trace in compared.traces)
    names = [name for name in a if name != "label" or a[name] or b[name]]
    if all(trace.alive is None for trace in compared.traces):
        names.remove("work")
    return [(name, (a[name], b[name])) for name in names]


def texts(compared: session.Compared, words: Words) -> None:
    """Two texts that differ, words put in and taken out marked."""
    first, second = compared.sides
    if first.text == second.text:
        return
    st.subheader(words("compare.texts_header"), anchor="texts")
    alignment = compared.alignment
    if alignment is not None:
        st.caption(
            words(
                "compare.aligned",
                edits=len(alignment.edits),
                aligned=len(alignment.first),
                a=compared.traces[0].keys,
                b=compared.traces[1].keys,
            )
        )
    colours = charts.palette(st.context.theme.type == "dark")
    marked = zip(mark(first.text, second.text), ("a", "b"), strict=True)
    for column, (shown, side) in zip(st.columns(2), marked, strict=True):
        colour = colours.only_a if side == "a" else colours.only_b
        style = f'<mark style="background:{colour}55;color:inherit">'
        place = column.container(border=True, height="stretch")
        place.markdown(f"**{words(f'compare.{side}')}**")
        body = shown.replace("<mark>", style).replace("\n", "<br>")
        place.html(f'<p style="margin:0;max-height:16rem;overflow:auto">{body}</p>')


def outputs(compared: session.Compared, words: Words) -> None:
    """How far the output moved: labels of a task, or next words token by token."""
    first, second = compared.traces
    dark = st.context.theme.type == "dark"
    st.subheader(words("compare.output_header"), anchor="output")
    if first.labels is not None and first.labels == second.labels:
        sides = {"a": first, "b": second}
        colours = charts.palette(dark)
        named = {words(f"compare.{name}"): trace for name, trace in sides.items()}
        st.altair_chart(
            charts.bars_of_labels(named, [colours.only_a, colours.only_b], words),
            key="compared_labels",
        )
        return
    found, alignment = compared.output, compared.alignment
    if found is None or alignment is None:
        st.caption(words("compare.no_output"))
        return
    names = charts.labels(first)
    here = [names[at] for at in alignment.first]
    about = "error" if found.kl is None else "kl"
    st.caption(words(f"compare.output_{about}"))
    st.altair_chart(
        difference_charts.output(found, alignment.first, here, words, dark), key="moved"
    )
    if found.kl is None or compared.next_words is None:
        return
    most = np.argsort(-found.kl, kind="stable")[:MOVED]
    rows = [
        {
            words("chart.position"): alignment.first[at],
            words("compare.token"): here[at],
            words("compare.next_a"): charts.visible(compared.next_words[0][at]),
            words("compare.next_b"): charts.visible(compared.next_words[1][at]),
            words("compare.kl_axis"): f"{found.kl[at]:.3f}",
        }
        for at in most
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")


@st.fragment
def decisions(compared: session.Compared, words: Words) -> None:
    """Strips, grid, maps, the chosen pair on both sides, and the list of flips; one cursor."""
    if compared.decisions is None:
        return
    try:
        _decisions(compared, words)
    except Exception as error:
        failure(error, words)


def _decisions(compared: session.Compared, words: Words) -> None:
    found, alignment, (first, second) = compared.decisions, compared.alignment, compared.traces
    assert found is not None
    assert alignment is not None
    state, dark = st.session_state, st.context.theme.type == "dark"
    colours = charts.palette(dark)
    st.subheader(words("compare.maps_header"), anchor="pairs")
    st.caption(words("compare.maps_caption"))
    _start_at_a_flip(compared)
    start_at(first)
    measure, size = selectors(first, words, difference_charts.MEASURES, "difference_measure")
    layer, head, q, k = state.layer, state.head, state.q, state.k
    frame = current_frame(first, q, k, size)
    codes = difference_map(first, second, alignment, layer, head)
    left, middle, right = st.columns([20, 33, 47], gap="medium")
    with right:
        st.markdown(f"**{words('maps.window')}**")
        window_key = f"differing-{state.get('moves', 0)}-{frame.q}-{frame.k}-{layer}-{head}"
        st.altair_chart(
            difference_charts.window(first, codes, frame, (q, k), words, dark),
            key=window_key,
            on_select=lambda: choose_pair(first, state[window_key]),
            selection_mode="pair",
        )
    with left:
        st.markdown(f"**{words('maps.heads')}**")
        grid_key = f"differing-heads-{state.get('grid_moves', 0)}"
        st.altair_chart(
            difference_charts.grid(found, measure, (layer, head), words, dark),
            key=grid_key,
            on_select=lambda: choose_head(state[grid_key]),
            selection_mode="cell",
        )
    with middle:
        st.markdown(f"**{words('maps.overview', layer=layer, head=head)}**")
        pair_map(
            difference_charts.overview_png(codes, dark),
            tokens=first.keys,
            frame=(frame.q, frame.k, frame.size),
            chosen=(q, k),
            label=words("maps.overview_label"),
            colour=colours.ink,
            on_choose=lambda: choose_region(first, state.difference_overview.pair),
            key="difference_overview",
        )
        share = words.percent(float(found.share[layer, head]), 1)
        st.caption(words("compare.overview_caption", share=share))

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
    _flips(compared, words)
    remember(size)


def _start_at_a_flip(compared: session.Compared) -> None:
    """A comparison that is new to this visitor starts at the decision that differs most."""
    state, found = st.session_state, compared.decisions
    if state.get("compared_cursor") is compared:
        return
    fresh = "compared_cursor" in state or not {"layer", "head", "q", "k"} <= set(state)
    if found is not None and found.flips and fresh and "cursor" not in state:
        _go(found.flips[0])
    state.compared_cursor = compared


def _strip(compared: session.Compared, side: str, chosen: int | None, words: Words) -> None:
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
    colours = charts.palette(st.context.theme.type == "dark")

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


def _flips(compared: session.Compared, words: Words) -> None:
    """The decisions that differ, ranked; choosing a row moves the cursor there."""
    found, state = compared.decisions, st.session_state
    assert found is not None
    st.subheader(words("compare.flips_header"), anchor="flips")
    if not found.flips:
        st.caption(words("compare.no_flips"))
        return
    st.caption(words("compare.flips_caption", shown=len(found.flips)))
    here = st.toggle(words("compare.this_head"), key="this_head")
    flips = [
        flip
        for flip in found.flips
        if not here or (flip.layer, flip.head) == (state.layer, state.head)
    ]
    if not flips:
        st.caption(words("compare.no_flips_here"))
        return
    names = charts.labels(compared.traces[0])
    table, drawn = st.columns([13, 7], gap="medium")
    rows = pd.DataFrame([_row(flip, names, words) for flip in flips])
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
            on_select=lambda: _choose_flip(flips, state[key]),
            selection_mode="single-row",
        )
    with drawn:
        dark = st.context.theme.type == "dark"
        titles = [
            f"{names[flip.query]} → {names[flip.key]} ({flip.layer}·{flip.head})" for flip in flips
        ]
        st.altair_chart(difference_charts.margins(flips, titles, words, dark), key="margins")


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


def _choose_flip(flips: list[Flip], event: object) -> None:
    rows = event["selection"]["rows"]  # type: ignore[index]
    if rows:
        _go(flips[rows[0]])
        bump()


def _go(flip: Flip) -> None:
    state = st.session_state
    state.layer, state.head, state.q, state.k = flip.layer, flip.head, flip.query, flip.key
