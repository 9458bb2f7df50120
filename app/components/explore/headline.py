"""The top of a result: one sentence on what was saved and what was risked, and what it says of time.

Text that a person or a model wrote is only ever shown as plain text.
"""

import streamlit as st

from app.components.explore.three_figures import three_figures
from app.components.shared.figures import (
    Figures,
    compare_labels,
    is_encoder,
    time_key,
    times_over,
    work_share,
)
from app.live.values import Result
from app.text import Words, plain
from saa_core.types import PAIR_LIMIT


def headline(found: Figures, result: Result, words: Words) -> None:
    """The sentence, what it says about time, and the three figures."""
    verdict(found, result, words)
    time_note(found, result, words)
    three_figures(found, result, words)


def verdict(found: Figures, result: Result, words: Words) -> None:
    """One sentence that says what was saved and what was risked."""
    share = words.percent(found.dropped)
    if found.dropped == 0:
        pairs = words("verdict.all_kept")
    elif found.skips:
        pairs = words("verdict.dropped_skipped", share=share)
    else:
        pairs = words("verdict.dropped_decided", share=share)
    same = {True: "next_same", False: "next_differs", None: "next_unknown"}[found.next_same]
    if is_encoder(result) and found.cosine is not None:
        same = "embedding"
    cosine = 0.0 if found.cosine is None else found.cosine
    if result.trace.labels is not None:
        label_verdict(found, result, words)
        return
    time = words(f"verdict.{_time_key(found, result)}", ratio=times_over(found))
    st.header(
        words(
            "verdict.sentence", pairs=pairs, next=words(f"verdict.{same}", cosine=cosine), time=time
        ),
        anchor="verdict",
    )


def label_verdict(found: Figures, result: Result, words: Words) -> None:
    """The sentence of a classification task: work saved, label kept or not."""
    label = plain(result.trace.label or "")
    before = None if result.dense is None else plain(result.dense.label or "")
    saved = words.percent(1 - work_share(result))
    st.header(
        words(
            "verdict.sentence",
            pairs=words(f"verdict.{_saved_key(found, result)}", share=saved),
            next=words(f"verdict.label_{compare_labels(result)}", label=label, before=before),
            time=words(f"verdict.{_time_key(found, result)}", ratio=times_over(found)),
        ),
        anchor="verdict",
    )


def _saved_key(found: Figures, result: Result) -> str:
    if work_share(result) > 1:
        return "asked"
    if work_share(result) == 1:
        return "all_kept" if found.dropped == 0 else "no_token"
    return "work" if result.flops_share is not None else "token_work"


def _time_key(found: Figures, result: Result) -> str:
    if (key := time_key(found, result)) != "unknown":
        return key
    return "time_unknown" if result.request is None else "time_running"


def time_note(found: Figures, result: Result, words: Words) -> None:
    """Where nothing is gained in time: that, why, from which length it is, and what happens to such a text
    where nobody looks at it."""
    if result.trace.policy is None or (found.speed == "faster" and not found.pairwise):
        return
    gap = "" if words.lang == "ja" else " "
    falls_back = result.verdict is not None and result.verdict.dense
    elsewhere = gap + words("note.fallback") if falls_back else ""
    if result.trace.labels is not None:
        if found.speed in ("slower", "same"):
            st.caption(words("note.task") + elsewhere)
        return
    if not found.skips:
        key = "pairwise" if found.pairwise else "reference"
    elif found.speed in ("slower", "same"):
        key = found.speed
    else:
        return
    crossover = {} if result.spec is None else result.spec.evaluation.get("crossover") or {}
    if crossover.get("tokens"):
        wins = words(
            "note.crossover",
            tokens=int(crossover["tokens"]),
            machine=plain(str(crossover.get("machine", "?"))),
        )
    else:
        wins = words("note.crossover_unknown")
    said = words(f"note.{key}", tokens=found.tokens, limit=PAIR_LIMIT) + gap + wins
    st.caption(said + elsewhere)
