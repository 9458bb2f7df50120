"""The parts of a result that are read, not explored: sentence, figures, continuations, method.

Knows figures and words; text that a person or a model wrote is only ever shown as plain text.
"""

import difflib
import html
import re

import charts
import pandas as pd
import session
import streamlit as st
from figures import Figures, labels_compared
from text import Words, plain

from saa_core import Trace
from saa_core.families import FAMILIES
from saa_core.types import PAIR_LIMIT


def headline(found: Figures, result: session.Result, words: Words) -> None:
    """The sentence, what it says about time, and the four figures."""
    verdict(found, result, words)
    time_note(found, result, words)
    four_figures(found, result, words)


def verdict(found: Figures, result: session.Result, words: Words) -> None:
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
    time = words(f"verdict.{_time_key(found, result)}", ratio=_times(found))
    st.header(
        words(
            "verdict.sentence", pairs=pairs, next=words(f"verdict.{same}", cosine=cosine), time=time
        ),
        anchor="verdict",
    )


def label_verdict(found: Figures, result: session.Result, words: Words) -> None:
    """The sentence of a classification task: work saved, label kept or not."""
    label = plain(result.trace.label or "")
    before = None if result.dense is None else plain(result.dense.label or "")
    saved = words.percent(1 - _work(result))
    st.header(
        words(
            "verdict.sentence",
            pairs=words(f"verdict.{_saved_key(found, result)}", share=saved),
            next=words(f"verdict.label_{labels_compared(result)}", label=label, before=before),
            time=words(f"verdict.{_time_key(found, result)}", ratio=_times(found)),
        ),
        anchor="verdict",
    )


def _saved_key(found: Figures, result: session.Result) -> str:
    if _work(result) > 1:
        return "asked"
    if _work(result) == 1:
        return "all_kept" if found.dropped == 0 else "no_token"
    return "work" if result.flops_share is not None else "token_work"


def _work(result: session.Result) -> float:
    """Share of dense's operations that was done; of a recording the share of the token work."""
    return result.trace.token_share if result.flops_share is None else result.flops_share


def _time_key(found: Figures, result: session.Result) -> str:
    if found.speed != "unknown":
        return found.speed
    return "time_unknown" if result.request is None else "time_running"


def _times(found: Figures) -> float:
    """How many times faster, or slower, as a number over one."""
    if found.ratio is None:
        return 1.0
    return found.ratio[1] if found.speed == "faster" else 1 / found.ratio[1]


def time_note(found: Figures, result: session.Result, words: Words) -> None:
    """Where nothing is gained in time: that, why, and from which length it is."""
    if result.trace.policy is None or (found.speed == "faster" and not found.pairwise):
        return
    if result.trace.labels is not None:
        if found.speed in ("slower", "same"):
            st.info(words("note.task"))
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
    gap = "" if words.lang == "ja" else " "
    st.info(words(f"note.{key}", tokens=found.tokens, limit=PAIR_LIMIT) + gap + wins)


def is_encoder(result: session.Result) -> bool:
    """The model makes embeddings, not text."""
    family = FAMILIES.get(result.trace.model.family)
    return family is not None and not family.causal


def four_figures(found: Figures, result: session.Result, words: Words) -> None:
    """Unit, spread and one line of meaning each, and a link to the part that explains it."""
    first, second, third, fourth = (
        column.container(border=True, height="stretch") for column in st.columns(4)
    )
    if result.trace.labels is not None:
        _work_figure(first, result, words)
        _label_figure(second, result, words)
        _pairs_figure(third, found, words)
    else:
        _pairs_figure(first, found, words)
        _retained_figure(second, found, words)
        _agreement_figure(third, found, result, words)
    _time_figure(fourth, found, result, words)


def _pairs_figure(place: st.delta_generator.DeltaGenerator, found: Figures, words: Words) -> None:
    """Pairs that are not computed, or would not be."""
    way = "skipped" if found.skips else "decided"
    _figure(
        place,
        words(f"figure.pairs_{way}"),
        words.percent(found.dropped, 1),
        words("figure.pairs_spread", **_range(found.dropped_heads, words)),
        words(
            f"figure.pairs_meaning_{way}",
            pairs=found.pairs,
            dropped=found.pairs - found.pairs_kept,
        ),
        "#pairs",
        words,
    )


def _retained_figure(
    place: st.delta_generator.DeltaGenerator, found: Figures, words: Words
) -> None:
    """Attention that the kept pairs hold."""
    if found.retained is not None and found.retained_heads is not None:
        _figure(
            place,
            words("figure.retained"),
            words.percent(found.retained, 1),
            words("figure.retained_spread", **_range(found.retained_heads, words, 1)),
            words("figure.retained_meaning"),
            "#pairs",
            words,
        )
    else:
        _missing(place, words("figure.retained"), words)


def _agreement_figure(
    place: st.delta_generator.DeltaGenerator, found: Figures, result: session.Result, words: Words
) -> None:
    """How close the embeddings are, or how often both sides predict the same token."""
    if found.cosine is not None and is_encoder(result):
        _figure(
            place,
            words("figure.embedding"),
            f"{found.cosine:.4f}",
            words("figure.embedding_spread"),
            words("figure.embedding_meaning"),
            "#measured",
            words,
        )
    elif found.agreement is not None:
        _figure(
            place,
            words("figure.agreement"),
            words.percent(found.agreement, 1),
            words(
                "figure.agreement_spread",
                same=found.agreeing,
                all=found.tokens,
                kl=found.kl,
                high=found.kl_p95,
            ),
            words("figure.agreement_meaning"),
            "#continuations",
            words,
            help_text=words("figure.agreement_help"),
        )
    else:
        _missing(place, words("figure.agreement"), words)


def _time_figure(
    place: st.delta_generator.DeltaGenerator, found: Figures, result: session.Result, words: Words
) -> None:
    """Time of both sides, where it was measured."""
    if result.request is not None and result.timing is None:
        place.metric(words("figure.time"), "…")
        place.markdown(words("figure.time_running"))
        place.caption(words("figure.time_running_meaning", rounds=session.REPEATS))
    elif found.dense_ms and found.saa_ms and found.ratio and result.timing:
        (dense_low, dense, dense_high), (low, saa, high) = found.dense_ms, found.saa_ms
        ms = words.milliseconds
        _figure(
            place,
            words("figure.time"),
            words(f"figure.time_{found.speed}", ratio=_times(found)),
            words(
                "figure.time_spread",
                dense=ms(dense),
                dense_low=ms(dense_low),
                dense_high=ms(dense_high),
                saa=ms(saa),
                saa_low=ms(low),
                saa_high=ms(high),
            ),
            words(
                "figure.time_meaning",
                rounds=len(result.timing.samples_ms),
                low=found.ratio[0],
                high=found.ratio[2],
            ),
            "#measured",
            words,
        )
    else:
        _missing(place, words("figure.time"), words)


def _work_figure(
    place: st.delta_generator.DeltaGenerator, result: session.Result, words: Words
) -> None:
    """Whole-model work that was saved."""
    trace = result.trace
    left = [trace.keys] * trace.shape[0] if trace.alive is None else trace.alive.sum(1).tolist()
    counted = "counted" if result.flops_share is not None else "tokens"
    _figure(
        place,
        words("figure.work"),
        words.percent(1 - _work(result), 1),
        words("figure.work_spread", left=" → ".join(map(str, left))),
        words(f"figure.work_meaning_{counted}"),
        "#labels" if trace.alive is None else "#crossed",
        words,
    )


def _label_figure(
    place: st.delta_generator.DeltaGenerator, result: session.Result, words: Words
) -> None:
    """The label of both sides, and how probable each holds its own."""

    def told(trace: Trace) -> str:
        assert trace.label_probs is not None
        return f"{plain(trace.label or '')} ({words.percent(float(trace.label_probs.max()), 1)})"

    dense = words("figure.not_recorded") if result.dense is None else told(result.dense)
    _figure(
        place,
        words("figure.label"),
        plain(result.trace.label or ""),
        words("figure.label_spread", dense=dense, saa=told(result.trace)),
        words(f"figure.label_{labels_compared(result)}"),
        "#labels",
        words,
    )


def _range(heads: tuple[float, float, float], words: Words, digits: int = 0) -> dict[str, str]:
    return {"low": words.percent(heads[0], digits), "high": words.percent(heads[2], digits)}


def _figure(
    place: st.delta_generator.DeltaGenerator,
    name: str,
    value: str,
    spread: str,
    meaning: str,
    anchor: str,
    words: Words,
    help_text: str | None = None,
) -> None:
    place.metric(name, value, help=help_text)
    place.markdown(spread)
    place.caption(f"{meaning} [{words('figure.see')}]({anchor})")


def _missing(place: st.delta_generator.DeltaGenerator, name: str, words: Words) -> None:
    place.metric(name, "–")
    place.markdown(words("figure.not_recorded"))
    place.caption(words("figure.not_recorded_meaning"))


def continuations(result: session.Result, words: Words) -> None:
    """Both continuations behind the end of the text, words that differ marked."""
    st.subheader(words("continue.header"), anchor="continuations")
    if result.request is None:
        st.caption(words("continue.not_recorded"))
        return
    sides = result.dense_words or "", result.words or ""
    if result.written:
        st.caption(words("continue.same" if sides[0] == sides[1] else "continue.differs"))
        left, right = (side or html.escape(words("continue.empty")) for side in mark(*sides))
    else:
        st.caption(words("continue.writing"))
        left, right = (html.escape(side) + " ▍" for side in sides)
    tail = html.escape(last_words(result.trace.text))
    space = " " if result.trace.text[-1:].isspace() else ""
    colour = charts.LIGHT.changed
    for column, side, written in zip(st.columns(2), ("dense", "saa"), (left, right), strict=True):
        place = column.container(border=True, height="stretch")
        place.markdown(f"**{words(f'continue.{side}')}**")
        shown = written.replace("<mark>", f'<mark style="background:{colour}55;color:inherit">')
        place.html(
            f'<p style="margin:0"><span style="opacity:.55">… {tail}{space}</span>{shown}</p>'
        )


def last_words(content: str) -> str:
    """The end of a text on one line, cut between words where it has spaces."""
    end = " ".join(content.split())[-90:]
    return end.partition(" ")[2] if " " in end[:30] else end


def mark(left: str, right: str) -> tuple[str, str]:
    """Both as escaped HTML, with <mark> around the words that the other side does not have."""
    a, b = (re.findall(r"\s*\S+|\s+", side) for side in (left, right))
    parts: tuple[list[str], list[str]] = ([], [])
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for out, piece in zip(parts, ("".join(a[a0:a1]), "".join(b[b0:b1])), strict=True):
            safe = html.escape(piece)
            out.append(safe if kind == "equal" or not piece else f"<mark>{safe}</mark>")
    return "".join(parts[0]), "".join(parts[1])


def measured(found: Figures, result: session.Result, words: Words) -> None:
    """Everything that is needed to repeat the measurement."""
    st.subheader(words("measured.header"), anchor="measured")
    trace, timing = result.trace, result.timing
    with st.expander(words("measured.open")):
        if timing is not None and result.dense_timing is not None:
            st.markdown(words("measured.intro", rounds=len(timing.samples_ms)))
            dark = st.context.theme.type == "dark"
            st.altair_chart(charts.samples(result.dense_timing, timing, words, dark))
        rows = [(words(f"measured.{name}"), value) for name, value in _facts(found, result, words)]
        st.dataframe(
            pd.DataFrame(rows, columns=[words("measured.row"), words("measured.value")]),
            hide_index=True,
            width="stretch",
            row_height=32,
        )
    st.download_button(
        words("explore.download"),
        data=lambda: session.trace_bytes(trace),
        file_name="run.saa",
        mime="application/octet-stream",
        on_click="ignore",
    )


def _facts(found: Figures, result: session.Result, words: Words) -> list[tuple[str, str]]:
    trace, timing = result.trace, result.timing
    execution, versions, policy = trace.execution, trace.versions, trace.policy
    missing = words("measured.not_recorded")
    M, S = trace.block
    return [
        (
            "machine",
            words(
                "measured.machine_value",
                device=execution.device,
                threads=execution.threads,
                cores=versions.get("cores", "?"),
                cpu=versions.get("cpu", "?"),
            ),
        ),
        (
            "model",
            words(
                "measured.model_value",
                model=trace.model.name,
                family=trace.model.family,
                dtype=execution.dtype,
                gate=trace.model.gate,
            ),
        ),
        ("weights", (result.spec.note if result.spec else "") or missing),
        (
            "policy",
            words("measured.policy_dense")
            if policy is None
            else words(
                "measured.policy_value", policy=policy, sink=policy.sink, local=policy.local
            ),
        ),
        (
            "kernel",
            words("measured.kernel_value", kernel=execution.kernel, reason=execution.reason),
        ),
        ("length", words("measured.length_value", tokens=found.tokens)),
        (
            "granularity",
            words("measured.granularity_pair")
            if found.pairwise or policy is None
            else words("measured.granularity_block", queries=M, keys=S),
        ),
        (
            "rounds",
            missing
            if timing is None
            else words("measured.rounds_value", rounds=len(timing.samples_ms)),
        ),
        (
            "compile",
            missing
            if timing is None
            else words("measured.compile_value", compile=words.milliseconds(timing.compile_ms)),
        ),
        (
            "stages",
            missing
            if timing is None
            else " · ".join(
                f"{stage} {words.milliseconds(ms)}" for stage, ms in timing.stages_ms.items()
            ),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
