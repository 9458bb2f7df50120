"""Certificate against measured, with and without a guard; the guard's events; how true a gate's word is."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

import saa_core as saa
from app.charts import trust as trust_charts
from app.components.shared.download import export
from app.components.shared.guarding import corrections, find_noticed
from app.components.shared.message import report_on
from app.export.provenance import about_here, about_pair
from app.live.values import GuardTrial, GuardTrialResult, Result
from app.service import Client
from app.state import session
from app.text import Words
from saa_core.explain.damage import KINDS
from saa_core.types import quartiles

AS_IT_IS = "none"
LIMITS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2)
DELTAS = (0.01, 0.05, 0.1)


def trial(result: Result, client: Client, words: Words) -> GuardTrialResult | None:
    """What to try on the text of the page, and what came out of it last time; None before that."""
    assert result.request is not None
    damage = st.pills(
        words("trust.damage"),
        (AS_IT_IS, *KINDS),
        default=AS_IT_IS,
        required=True,
        format_func=lambda kind: words(f"trust.damage_{kind}"),
        key="damage",
    )
    st.caption(words(f"trust.about_{damage}"))
    left, middle, right = st.columns([3, 3, 2], gap="medium", vertical_alignment="bottom")
    guard = saa.Guard(
        missed_mass=left.select_slider(
            words("trust.limit"),
            LIMITS,
            value=saa.Guard.missed_mass,
            format_func=words.percent,
            key="guard_limit",
            help=words("trust.limit_help"),
        ),
        delta=middle.select_slider(
            words("trust.delta"),
            DELTAS,
            value=saa.Guard.delta,
            format_func=words.percent,
            key="guard_delta",
            help=words("trust.delta_help"),
        ),
    )
    asked = GuardTrial(result.request, guard, None if damage == AS_IT_IS else damage)
    tried = st.session_state.setdefault("tried", {})
    if right.button(words("trust.try"), type="primary", key="try", width="stretch"):
        bar = st.progress(0.0)
        tried[asked] = client.attempt(
            asked,
            result.dense,
            report_on(bar, words),
        )
        bar.empty()
        session.forget_oldest(tried)
    found: GuardTrialResult | None = tried.get(asked)
    return found


def outcome(found: GuardTrialResult, words: Words) -> None:
    """What the guard changed, in one sentence, and both sides next to each other."""
    limit = found.trial.guard.missed_mass
    without, guarded = missed_mass(found.blind), missed_mass(found.guarded)
    key = "untouched" if not corrections(found.guarded.events) else "corrected"
    if found.guarded.policy is None:
        key = "dense"
    elif without > limit >= guarded:
        key = "saved"
    st.header(
        words(
            f"trust.verdict_{key}",
            without=words.percent(without, 1),
            guarded=words.percent(guarded, 1),
            limit=words.percent(limit),
        ),
        anchor="verdict",
    )
    columns = st.columns(2, gap="medium")
    for column, name, trace, alike in zip(
        columns, ("without", "with"), (found.blind, found.guarded), found.alike, strict=True
    ):
        with column.container(border=True):
            st.markdown(f"**{words(f'trust.{name}')}**")
            _side(trace, alike, limit, words)
    chart = trust_charts.missed_by_layer(found.blind, found.guarded, limit, words, _dark())
    st.altair_chart(chart, key="missed")
    st.caption(words("trust.missed_caption"))
    export(
        "missed",
        words("trust.missed_axis"),
        words,
        about_pair(found.blind, found.guarded),
        chart=chart,
    )


def _side(trace: saa.Trace, alike: float, limit: float, words: Words) -> None:
    lost = missed_mass(trace)
    within = words("trust.within" if lost <= limit else "trust.over")
    encoder = trace.top_ids is None
    figures = (
        ("missed", words.percent(lost, 1), within, "off" if lost <= limit else "inverse"),
        ("pairs", words.percent(1 - trace.sparsity, 1), None, "off"),
        ("cosine" if encoder else "alike", _alike(alike, encoder, words), None, "off"),
        ("full", f"{full_layers(trace)} / {trace.shape[0]}", None, "off"),
    )
    for row in (figures[:2], figures[2:]):
        for cell, (name, value, note, colour) in zip(st.columns(2), row, strict=True):
            cell.metric(
                words(f"trust.{name}"),
                value,
                note,
                delta_color=colour,
                delta_arrow="off",
                help=words(f"trust.{name}_help"),
            )


def _alike(value: float, encoder: bool, words: Words) -> str:
    return f"{value:.4f}" if encoder else words.percent(value, 1)


def of_this_run(trace: saa.Trace, words: Words) -> None:
    """What the guard of a run promised, noticed and did; nothing where it had none."""
    if not trace.events:
        return
    # From drawn queries it would be a second estimate, not the truth.
    known = trace.retained_mass is not None and trace.mass_queries is None
    true = missed_mass(trace) if known and trace.labels is None else None
    promise(trace.events, true, words, "this-promise")
    events_table(trace.events, words, "this-events")


def promise(
    events: tuple[Mapping[str, Any], ...],
    true: float | None,
    words: Words,
    anchor: str = "promise",
) -> None:
    """What was promised and what was found, from the guard's own result."""
    result = next((event for event in events if event["suspected"] == "result"), None)
    if result is None:
        return
    st.subheader(words(f"trust.{_whose(anchor)}promise_header"), anchor=anchor)
    rows = [
        ("limit", words.percent(result["limit"]), ""),
        ("bound", words.percent(result["bound"], 1), words.percent(result["delta"])),
        ("estimate", words.percent(result["estimate"], 1), f"{result['queries']:,}"),
    ]
    if true is not None:
        rows.append(("missed", words.percent(true, 1), ""))
    for name, value, more in rows:
        number, meaning = st.columns([1, 4], vertical_alignment="center")
        number.metric(words(f"trust.{name}"), value)
        meaning.caption(words(f"trust.{name}_means", more=more))


def events_table(
    events: tuple[Mapping[str, Any], ...], words: Words, anchor: str = "events"
) -> None:
    """One line per event: where, what was suspected, measured and done, and what that cost."""
    st.subheader(words(f"trust.{_whose(anchor)}events_header"), anchor=anchor)
    own = find_noticed(events)
    if not own:
        st.info(words("trust.no_events"))
        return
    rows = [
        {
            words("chart.layer"): "–" if event.get("layer") is None else str(event["layer"]),
            words("trust.heads"): " ".join(map(str, event.get("heads") or ()))
            or words("trust.all"),
            words("trust.suspected"): _name(f"trust.suspected_{event['suspected']}", words),
            words("trust.measured"): _format_measured(event, words),
            words("trust.after"): _share(event.get("after"), words),
            words("trust.done"): _name(f"trust.done_{event.get('done')}", words),
            words("trust.added"): _share(event.get("added"), words, 2),
        }
        for event in own
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
    st.caption(words("trust.events_caption"))
    about = about_here(events=[dict(event) for event in events])
    title = words(f"trust.{_whose(anchor)}events_header")
    export(anchor, title, words, about, rows=pd.DataFrame(rows))


def cost(found: GuardTrialResult, words: Words) -> None:
    """What the guard cost: pairs, queries, time."""
    low, middle, high = found.guarded_timing.ratio(found.blind_timing)
    checked = found.trial.guard.rows_for(found.guarded.shape[0])
    st.subheader(words("trust.cost_header"), anchor="cost")
    st.markdown(
        words(
            "trust.cost",
            before=words.percent(1 - found.blind.sparsity, 1),
            after=words.percent(1 - found.guarded.sparsity, 1),
            queries=2 * checked,
            tokens=found.guarded.queries,
            blind=words.milliseconds(quartiles(found.blind_timing.samples_ms)[1]),
            guarded=words.milliseconds(quartiles(found.guarded_timing.samples_ms)[1]),
            ratio=f"{1 / middle:.2f}",
            low=f"{1 / high:.2f}",
            high=f"{1 / low:.2f}",
            rounds=len(found.guarded_timing.samples_ms),
        )
    )
    st.caption(words("trust.cost_caption"))


def word_of_the_gate(choice: session.Choice, words: Words) -> None:
    """The reliability diagram of the loaded model's gate, as stored with it."""
    st.subheader(words("trust.reliability_header"), anchor="reliability")
    st.caption(words("trust.reliability_caption"))
    if choice.model is None:
        return
    known = {found.pairwise: found for found in choice.model.spec.reliability}
    if not known:
        st.info(words("trust.unmeasured"))
        st.code("saa reliability --model MODEL --data austen reviews code --out FOLDER", None)
        return
    pairwise = st.segmented_control(
        words("sidebar.granularity"),
        list(known),
        default=next(iter(known)),
        required=True,
        format_func=lambda pairs: words("choice.pair" if pairs else "choice.block"),
        key=f"reliability-{len(known)}",
    )
    found = known[bool(pairwise)]
    drawn, said = st.columns([3, 2], gap="medium")
    with drawn:
        chart = trust_charts.reliability(found, words, _dark())
        st.altair_chart(chart, key="reliability")
        source = about_here(model=choice.name, measured=dict(found.about))
        export("reliability", words("trust.reliability_header"), words, source, chart=chart)
    with said:
        before, after = found.before, found.after
        worst = [max(max(layer) for layer in side.heads) for side in (before, after)]
        for name, (own, corrected) in (("error", (before.error, after.error)), ("worst", worst)):
            st.metric(
                words(f"trust.{name}"),
                words("trust.in_points", points=100 * corrected),
                words("trust.was", points=100 * own),
                delta_color="off",
                delta_arrow="off",
                help=words(f"trust.{name}_help"),
            )
        about = found.about
        st.caption(
            words(
                "trust.reliability_how",
                rows=sum(each.rows for each in after.bins),
                fitted=", ".join(about.get("fitted", ())),
                judged=", ".join(about.get("judged", ())),
                lengths=", ".join(map(str, about.get("lengths", ()))),
                masses=", ".join(f"{mass:g}" for mass in about.get("masses", ())),
            )
        )
    with st.expander(words("trust.by_head")):
        chart = trust_charts.head_errors(found, words, _dark())
        st.altair_chart(chart, key="head_errors")
        st.caption(words("trust.by_head_caption"))
        export("head-errors", words("trust.by_head"), words, source, chart=chart)


def _whose(anchor: str) -> str:
    """Start of the header's name: of the page's own run, or of a trial."""
    return "this_" if anchor.startswith("this-") else ""


def missed_mass(trace: saa.Trace) -> float:
    """True missed mass of a run, mean over layers, heads and queries."""
    assert trace.retained_mass is not None
    return max(0.0, 1 - float(trace.retained_mass.mean()))


def full_layers(trace: saa.Trace) -> int:
    return int((trace.density.min(1) >= 1).sum())


def _name(key: str, words: Words) -> str:
    """The sentence for what an event says; of a recording by another version its own word."""
    return words(key) if key in words.table else key.partition("_")[2]


def _format_measured(event: Mapping[str, Any], words: Words) -> str:
    """The mass that was missed; of an input its distance, which is no share."""
    if event["suspected"] != "input" or event.get("measured") is None:
        return _share(event.get("measured"), words)
    return words("trust.far", distance=event["measured"], limit=event["limit"])


def _share(value: float | None, words: Words, digits: int = 1) -> str:
    return "–" if value is None else words.percent(value, digits)


def _dark() -> bool:
    return st.context.theme.type == "dark"
