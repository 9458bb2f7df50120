"""A person's word above the gate's, and what every block of a layer does to the output.

What is forced lies in session state and in the address, is part of every later run's policy, and can
be taken back one by one.
"""

import pandas as pd
import streamlit as st

from app.charts import difference as difference_charts
from app.charts.token_labels import labels
from app.components.shared.download import export
from app.components.shared.maps import bump
from app.components.shared.outcome import ask
from app.components.shared.resumable import resumable
from app.live.values import Result
from app.service import Client
from app.state import session
from app.text import Words, plain
from saa_core import Force, Trace
from saa_core.explain.effects import Effect, blocks

SCOPES = {
    "pair": ("layer", "head", "query", "key"),
    "pair_everywhere": ("query", "key"),
    "key_head": ("layer", "head", "key"),
    "key_layer": ("layer", "key"),
    "key": ("key",),
    "query": ("query",),
    "head": ("layer", "head"),
    "layer": ("layer",),
}
"""What can be forced, starting from the chosen pair: the fields of a Force that are not "all"."""
CURSOR = {"layer": "layer", "head": "head", "query": "q", "key": "k"}
LISTED = 10


def person(result: Result, words: Words) -> None:
    """Keep or drop the chosen pair, its tokens, its head or its layer, and run again."""
    trace, state = result.trace, st.session_state
    st.subheader(words("force.header"), anchor="force")
    if result.request is None:
        st.caption(words("force.recorded"))
        return
    if result.request.policy.tokens is not None:
        st.caption(words("force.tokens"))
        return
    st.caption(words("force.caption"))
    names = labels(trace)
    where = {
        "layer": state.layer,
        "head": state.head,
        "query": f"“{names[state.q]}” ({state.q})",
        "key": f"“{names[state.k]}” ({state.k})",
    }
    left, keep, drop = st.columns([4, 1, 1], vertical_alignment="bottom")
    scope = left.selectbox(
        words("force.what"),
        SCOPES,
        format_func=lambda name: words(f"force.scope_{name}", **where),
        key="force_scope",
    )
    chosen = {field: state[CURSOR[field]] for field in SCOPES[scope]}
    for place, name in ((keep, "keep"), (drop, "drop")):
        if place.button(words(f"force.{name}"), key=f"force_{name}", width="stretch"):
            entry = Force(keep=name == "keep", **chosen)
            _run_with((*(old for old in _forces() if _place(old) != _place(entry)), entry), result)
    for at, entry in enumerate(_forces()):
        said, away = st.columns([5, 1], vertical_alignment="center")
        said.markdown(_sentence(entry, names, words))
        if away.button(words("force.take_back"), key=f"force_back_{at}", width="stretch"):
            _run_with((*_forces()[:at], *_forces()[at + 1 :]), result)
    _show_moves(result, words)


def _forces() -> tuple[Force, ...]:
    found: tuple[Force, ...] = st.session_state.get("forces", ())
    return found


def _place(entry: Force) -> tuple[object, ...]:
    return (entry.layer, entry.head, entry.query, entry.key)


def _run_with(forces: tuple[Force, ...], result: Result) -> None:
    assert result.request is not None
    st.session_state.forces = forces
    ask(result.request.text)
    st.rerun()


def _sentence(entry: Force, names: list[str], words: Words) -> str:
    """One entry in words."""
    parts = []
    for field in ("layer", "head", "query", "key"):
        value = getattr(entry, field)
        if field in ("query", "key") and isinstance(value, int) and value < len(names):
            value = f"“{plain(names[value])}” ({value})"
        elif isinstance(value, tuple):
            value = f"{value[0]}–{value[1]}"
        if value is not None:
            parts.append(words(f"force.part_{field}", value=value))
    what = words("force.part_all") if not parts else " · ".join(parts)
    return f"**{words('force.kept' if entry.keep else 'force.dropped')}**: {what}"


def _show_moves(result: Result, words: Words) -> None:
    """What the forced run has become, beside the same run by the gate alone."""
    alone = session.without_forces(result)
    if alone is None or alone is result:
        return
    # At some positions and at all of them are not the same figure.
    comparable = alone.compared_at is None and result.compared_at is None
    rows = []
    for name, run in (("gate", alone), ("person", result)):
        same = None if run.comparison is None else run.comparison.top1_agreement
        kl = None if run.comparison is None else run.comparison.kl
        row = {
            words("measured.row"): words(f"force.by_{name}"),
            words("chart.density"): words.percent(1 - run.trace.sparsity, 1),
        }
        if same is not None and kl is not None and comparable:
            row[words("figure.agreement")] = words.percent(float(same.mean()), 1)
            row[words("latency.distance_kl")] = f"{kl.mean():.4f}"
        elif run.comparison is not None and same is None:
            row[words("latency.distance_cosine")] = f"{1 - run.comparison.embedding_cosine:.5f}"
        if run.trace.label is not None:
            row[words("figure.label")] = run.trace.label
        rows.append(row)
    st.table(pd.DataFrame(rows).set_index(words("measured.row")))
    export("forced", words("force.header"), words, result.trace, rows=pd.DataFrame(rows))


def ranking(result: Result, client: Client, words: Words) -> None:
    """Leave out one block of the chosen layer after the other, and rank what that does."""
    trace, state = result.trace, st.session_state
    st.subheader(words("effects.header"), anchor="effects")
    if result.request is None or trace.policy is None or trace.policy.tokens is not None:
        st.caption(words("effects.not_here"))
        return
    only = st.toggle(words("effects.only_head", head=state.head), key="effects_head")
    layer, head = state.layer, state.head if only else None
    todo = blocks(trace, layer, head)
    size = todo[0][0][1] - todo[0][0][0] + 1
    st.caption(words("effects.caption", layer=layer, blocks=len(todo), size=size))
    wanted = (result.request, layer, head)
    found: list[Effect] = state.setdefault("effects", {}).setdefault(wanted, [])
    resumable(
        "effects",
        wanted,
        found,
        len(todo),
        lambda: client.effects(result, layer, head, found),
        words,
        layer=layer,
    )
    if found:
        _draw_ranking(trace, found, len(todo), words)


def _draw_ranking(trace: Trace, found: list[Effect], total: int, words: Words) -> None:
    ranked = sorted(found, key=lambda effect: -effect.distance)
    names, state = labels(trace), st.session_state
    unit = words(_unit(trace))
    dark = st.context.theme.type == "dark"
    if len(found) < total:
        st.caption(words("effects.partial", done=len(found), total=total))
    drawn, listed = st.columns([2, 3], gap="medium")
    with drawn:
        chart = difference_charts.effects(found, unit, words, dark)
        st.altair_chart(chart, key="effects_map")
        export("effects", words("effects.header"), words, trace, chart=chart)
    key = f"effects-{state.get('moves', 0)}"
    rows = [
        {
            words("chart.query"): _stretch(effect.queries, names),
            words("chart.key"): _stretch(effect.keys, names),
            words("effects.pairs"): effect.pairs,
            unit: f"{effect.distance:.4f}",
            words("effects.outcome"): words(f"effects.{_outcome(effect)}"),
        }
        for effect in ranked[:LISTED]
    ]
    with listed:
        st.dataframe(
            pd.DataFrame(rows),
            hide_index=True,
            width="stretch",
            key=key,
            on_select=lambda: _choose(ranked, state[key]),
            selection_mode="single-row",
        )
        export("ranked", words("effects.header"), words, trace, rows=pd.DataFrame(rows))


def _unit(trace: Trace) -> str:
    if trace.label_probs is not None:
        return "effects.unit_label"
    return "effects.unit_cosine" if trace.top_ids is None else "effects.unit_kl"


def _outcome(effect: Effect) -> str:
    return {True: "changed", False: "unchanged", None: "no_outcome"}[effect.changed]


def _stretch(stretch: tuple[int, int], names: list[str]) -> str:
    first, last = stretch
    return f"{first}–{last}: {names[first]} … {names[last]}"


def _choose(ranked: list[Effect], event: object) -> None:
    rows = event["selection"]["rows"]  # type: ignore[index]
    if rows:
        state, effect = st.session_state, ranked[rows[0]]
        state.q, state.k = effect.queries[1], effect.keys[0]
        bump(grid=False)
