"""The chosen pair in words: kept or dropped, why, with which score. Knows one pair of a trace."""

import numpy as np
import streamlit as st
from charts import labels, threshold_text
from text import Words, plain

from saa_core import REASONS, Policy, Trace


def inspector(trace: Trace, layer: int, head: int, q: int, k: int, words: Words) -> None:
    """Draws the card of one pair."""
    names = labels(trace)
    one = np.s_[q : q + 1, k : k + 1]
    reason = REASONS[trace.reason_map(layer, head, one).item()]
    bq, bk = trace.block
    score = words.percent(trace.score_map(layer, head, one).item(), 2)
    threshold = threshold_text(float(trace.decision(layer, head).threshold[q // bq]), words)
    policy = trace.policy or Policy()
    with st.container(border=True, key="inspector"):
        left, right = st.columns([3, 2], gap="large", vertical_alignment="center")
        left.markdown(f"**{words('inspector.header')}**")
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
            )
        )
        if trace.policy is None or reason == "not allowed":
            return
        kept = words("inspector.dropped" if reason == "below" else "inspector.kept")
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
