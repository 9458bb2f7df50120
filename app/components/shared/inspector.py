"""The chosen pair in words: kept or dropped, why, with which score."""

from math import ceil

import numpy as np
import streamlit as st

from app.charts.pair import threshold_text
from app.charts.token_labels import labels
from app.components.shared.message import failure
from app.live.values import Result
from app.service import Client
from app.state import session
from app.text import Words, plain
from saa_core import REASONS, Policy, Trace
from saa_core.explain.pair import boundary


def inspector(
    trace: Trace,
    layer: int,
    head: int,
    q: int,
    k: int,
    words: Words,
    *,
    key: str = "inspector",
    title: str | None = None,
) -> None:
    """Draws the card of one pair.

    Args:
        key: of the card, where a page has several.
        title: instead of "The chosen pair"; the card is then narrow, its figures below the words.
    """
    names = labels(trace)
    one = np.s_[q : q + 1, k : k + 1]
    reason = REASONS[trace.reason_map(layer, head, one).item()]
    bq, bk = trace.block
    score = words.percent(trace.score_map(layer, head, one).item(), 2)
    threshold = threshold_text(float(trace.decision(layer, head).threshold[q // bq]), words)
    policy = trace.policy or Policy()
    with st.container(border=True, key=key, height="stretch"):
        left, right = st.container(), st.container()
        if title is None:
            left, right = st.columns([3, 2], gap="large", vertical_alignment="center")
        left.markdown(f"**{title or words('inspector.header')}**")
        left.markdown(
            words(
                "inspector.pair",
                query=plain(names[q]),
                key=plain(names[k]),
                q=q,
                k=k,
                layer=layer,
                head=head,
            )
        )
        left.markdown(
            words(
                f"inspector.{reason.replace(' ', '_')}",
                score=score,
                threshold=threshold,
                sink=policy.sink,
                local=policy.local,
                tail=policy.tail,
            )
        )
        if trace.policy is None or reason == "not allowed":
            return
        gone = reason in ("below", "excluded", "token")
        kept = words("inspector.dropped" if gone else "inspector.kept")
        values = {"decision": kept, "score": score, "threshold": threshold}
        for column, (name, value) in zip(right.columns(3), values.items(), strict=True):
            column.caption(words(f"inspector.{name}"))
            column.markdown(f"**{value}**")
        if trace.block != (1, 1):
            q0, k0 = q // bq * bq, k // bk * bk
            left.caption(
                words(
                    "inspector.block",
                    q0=q0,
                    q1=min(q0 + bq, trace.queries) - 1,
                    k0=k0,
                    k1=min(k0 + bk, trace.keys) - 1,
                )
            )


def details(
    result: Result,
    choice: session.Choice,
    client: Client,
    layer: int,
    head: int,
    q: int,
    k: int,
    words: Words,
) -> None:
    """What would have changed the decision; on request the parts of the score and the truth."""
    trace = result.trace
    found = boundary(trace, layer, head, q, k)
    with st.container(border=True, key="details"):
        st.markdown(f"**{words('details.header')}**")
        rule = trace.policy.rule_name if trace.policy is not None else ""
        if found.value is None:
            reason = REASONS[trace.reason_map(layer, head, np.s_[q : q + 1, k : k + 1]).item()]
            fixed = "token" if reason == "token" else "kept" if found.kept else "dropped"
            st.markdown(words(f"details.fixed_{fixed}"))
        elif found.kept:
            st.markdown(
                words(
                    "details.turns_dropped",
                    rule=rule,
                    value=max(ceil(1000 * found.value), 0) / 1000,
                )
            )
        elif found.value < 1:
            st.markdown(
                words("details.turns_kept", rule=rule, value=ceil(1000 * found.value) / 1000)
            )
        else:
            st.markdown(words("details.only_all"))
        if found.margin is not None:
            st.caption(words("details.margin", margin=words.signed(found.margin, 2)))
        st.caption(_characters(trace, q, k, words))
        if result.request is None or choice.model is None:
            st.caption(words("details.recorded"))
            return
        if trace.policy is not None and trace.policy.tokens is not None:
            st.caption(words("details.tokens"))
            return
        asked = st.session_state.get("explained", (None, None))
        if st.button(words("details.explain"), key="explain", help=words("details.explain_help")):
            asked = st.session_state.explained = (trace, layer)
        if asked[0] is not trace or asked[1] != layer:
            return
        try:
            with st.spinner(words("details.working")):
                inputs = session.inputs(client, result, layer)
                parts = inputs.parts(head, q, k)
                estimate = trace.retained_interval(layer, head)
                exact = None if estimate is None else inputs.retained_mass(trace, head)
        except Exception as error:
            failure(error, words)
            return
        values = {
            "content": f"{parts.content:+.2f}",
            "distance": f"{parts.distance:+.2f}",
            "first": f"{parts.first:+.2f}",
            "visible": f"{np.log(max(parts.visible, 1e-9)):+.2f}",
            "weight": words.percent(parts.weight, 2),
            "block_weight": words.percent(parts.block_weight, 2),
        }
        for column, (name, value) in zip(st.columns(len(values)), values.items(), strict=True):
            column.metric(words(f"details.{name}"), value, help=words(f"details.{name}_help"))
        if exact is not None and estimate is not None and trace.mass_queries is not None:
            low, high = (words.percent(end, 1) for end in estimate)
            kept, rows = words.percent(exact, 2), len(trace.mass_queries)
            st.caption(words("details.head_mass", kept=kept, rows=rows, low=low, high=high))


def _characters(trace: Trace, q: int, k: int, words: Words) -> str:
    """Where the two tokens stand in the text."""
    if trace.offsets is None:
        return words("details.no_offsets")
    (q0, q1), (k0, k1) = trace.offsets[q], trace.offsets[k]
    return words("details.offsets", q0=q0, q1=q1, k0=k0, k1=k1)
