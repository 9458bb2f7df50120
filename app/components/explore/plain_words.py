"""The run in plain words, built from the trace: which layers look where, and what came of it."""

import functools

import streamlit as st

from app.charts.token_labels import labels
from app.components.shared.figures import Figures, compare_labels
from app.live.values import Result
from app.text import Words, plain
from saa_core import Trace
from saa_core.trace.summary import LayerGroup, Summary, summarise


@functools.lru_cache(maxsize=16)
def _summary(trace: Trace) -> Summary | None:
    return summarise(trace)


def explanation(found: Figures, result: Result, words: Words) -> None:
    """A few sentences; nothing where nothing was decided."""
    trace = result.trace
    facts = _summary(trace)
    if facts is None or trace.policy is None:
        return
    st.subheader(words("plain.header"), anchor="plain")
    policy = trace.policy
    lines = [words("plain.always", sink=policy.sink, local=policy.local)]
    if not facts.groups:
        lines = [words("plain.all_near", sink=policy.sink, local=policy.local)]
    else:
        lines[0] += words("plain.gap") + words("plain.far", share=words.percent(facts.far))
    for group in facts.groups:
        lines.append(
            words(
                f"plain.{group.kind}",
                layers=_layers(group, words),
                share=words.percent(group.kept),
            )
        )
    if facts.most_read is not None and facts.most_read[1] > 0:
        at, share = facts.most_read
        name = plain(labels(trace)[at])
        last = min(at + trace.block[1], trace.keys) - 1
        key = "most_read" if trace.block[1] == 1 else "most_read_block"
        lines.append(
            words(f"plain.{key}", token=name, at=at, last=last, share=words.percent(share))
        )
    if trace.kept_tokens is not None and not trace.kept_tokens.all():
        lines.append(
            words("plain.tokens_left", left=int(trace.kept_tokens[-1].sum()), all=trace.keys)
        )
    lines.append(_outcome(found, result, words))
    st.markdown("\n".join(f"- {line}" for line in lines if line))


def _layers(group: LayerGroup, words: Words) -> str:
    """ "Layers 0, 3 to 9 and 12"."""
    parts = [
        words("plain.one", layer=first)
        if first == last
        else words("plain.stretch", first=first, last=last)
        for first, last in group.ranges
    ]
    listed = parts[0]
    if len(parts) > 1:
        listed = words("plain.comma").join(parts[:-1]) + words("plain.and") + parts[-1]
    return words("plain.layer" if len(group.layers) == 1 else "plain.layers", layers=listed)


def _outcome(found: Figures, result: Result, words: Words) -> str:
    share = words.percent(found.dropped)
    if result.trace.labels is not None:
        return words(f"plain.label_{compare_labels(result)}", share=share)
    if found.agreement is None or found.agreeing is None:
        return words("plain.unknown", share=share)
    key = "same" if found.next_same else "differs"
    other = found.compared - found.agreeing
    return words(f"plain.{key}", share=share, other=other, all=found.compared)
