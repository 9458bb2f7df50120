"""The three figures below the sentence: unit, spread, and on hover what each means.

What a figure is, is computed in shared/figures.py.
"""

import streamlit as st

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
from saa_core import Trace


def three_figures(found: Figures, result: Result, words: Words) -> None:
    """What was left out, whether the answer is the same, and the time."""
    first, second, third = (
        column.container(border=True, height="stretch", gap="small") for column in st.columns(3)
    )
    if result.trace.labels is not None:
        _work_figure(first, result, words)
        _label_figure(second, result, words)
    else:
        _pairs_figure(first, found, words)
        _agreement_figure(second, found, result, words)
    _time_figure(third, found, result, words)


def further_figures(found: Figures, result: Result, words: Words) -> None:
    """What an engineer asks next."""
    first, second = (
        column.container(border=True, height="stretch", gap="small") for column in st.columns(2)
    )
    if result.trace.labels is not None or is_encoder(result):
        _pairs_figure(first, found, words)
    else:
        _closeness_figure(first, found, words)
    _retained_figure(second, found, words)


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
            _retained_spread(found, words),
            words("figure.retained_meaning"),
        )
    else:
        _missing(place, words("figure.retained"), words)


def _retained_spread(found: Figures, words: Words) -> str:
    """How the heads differ; of a long text also how sure the mean is."""
    assert found.retained_heads is not None
    said = words("figure.retained_spread", **_range(found.retained_heads, words, 1))
    if found.retained_interval is None:
        return said
    low, high = (words.percent(end, 1) for end in found.retained_interval)
    drawn = words(
        "figure.retained_drawn", rows=found.retained_rows, tokens=found.tokens, low=low, high=high
    )
    return f"{said} {drawn}"


def _agreement_figure(
    place: st.delta_generator.DeltaGenerator, found: Figures, result: Result, words: Words
) -> None:
    """How close the embeddings are, or how often both sides predict the same token."""
    if found.cosine is not None and is_encoder(result):
        _figure(
            place,
            words("figure.embedding"),
            f"{found.cosine:.4f}",
            words("figure.embedding_spread"),
            words("figure.embedding_meaning"),
        )
    elif found.agreement is not None:
        _figure(
            place,
            words("figure.agreement"),
            words.percent(found.agreement, 1),
            words("figure.agreement_spread", same=found.agreeing, all=found.compared),
            words("figure.agreement_meaning"),
        )
    else:
        _missing(place, words("figure.agreement"), words)


def _closeness_figure(
    place: st.delta_generator.DeltaGenerator, found: Figures, words: Words
) -> None:
    """How far the predicted probabilities moved, in the field's own measure."""
    if found.kl is not None:
        _figure(
            place,
            words("figure.closeness"),
            words("figure.closeness_value", kl=found.kl),
            words("figure.closeness_spread", high=found.kl_p95),
            words("figure.agreement_help"),
        )
    else:
        _missing(place, words("figure.closeness"), words)


def _time_figure(
    place: st.delta_generator.DeltaGenerator, found: Figures, result: Result, words: Words
) -> None:
    """Time of both sides, where it was measured."""
    if result.request is not None and result.timing is None:
        place.metric(words("figure.time"), "…")
        place.markdown(words("figure.time_running"))
        place.caption(words("figure.time_running_meaning", rounds=result.rounds))
    elif found.dense_ms and found.saa_ms and result.timing and not found.settled:
        ms = words.milliseconds
        place.metric(words("figure.time"), "…")
        place.markdown(
            words("figure.time_first", dense=ms(found.dense_ms[1]), saa=ms(found.saa_ms[1]))
        )
        done = result.rounds_done
        key = "figure.time_once_meaning" if done == 0 else "figure.time_first_meaning"
        place.caption(words(key, done=done, rounds=result.rounds))
    elif found.dense_ms and found.saa_ms and found.ratio and result.timing:
        (dense_low, dense, dense_high), (low, saa, high) = found.dense_ms, found.saa_ms
        ms = words.milliseconds
        name = words("figure.time")
        value = words(f"figure.time_{time_key(found, result)}", ratio=times_over(found))
        if len(result.timing.samples_ms) == 1:
            both = words("figure.time_first", dense=ms(dense), saa=ms(saa))
            _figure(place, name, value, both, words("figure.time_single_meaning"))
            return
        _figure(
            place,
            name,
            value,
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
        )
    else:
        _missing(place, words("figure.time"), words)


def _work_figure(place: st.delta_generator.DeltaGenerator, result: Result, words: Words) -> None:
    """Whole-model work that was saved."""
    trace = result.trace
    left = (
        [trace.keys] * trace.shape[0]
        if trace.kept_tokens is None
        else trace.kept_tokens.sum(1).tolist()
    )
    counted = "counted" if result.flops_share is not None else "tokens"
    _figure(
        place,
        words("figure.work"),
        words.percent(1 - work_share(result), 1),
        words("figure.work_spread", left=" → ".join(map(str, left))),
        words(f"figure.work_meaning_{counted}"),
    )


def _label_figure(place: st.delta_generator.DeltaGenerator, result: Result, words: Words) -> None:
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
        words(f"figure.label_{compare_labels(result)}"),
    )


def _range(heads: tuple[float, float, float], words: Words, digits: int = 0) -> dict[str, str]:
    return {"low": words.percent(heads[0], digits), "high": words.percent(heads[2], digits)}


def _figure(
    place: st.delta_generator.DeltaGenerator,
    name: str,
    value: str,
    spread: str,
    meaning: str,
    help_text: str | None = None,
) -> None:
    place.metric(name, value, help=help_text)
    place.markdown(spread)
    place.caption(meaning)


def _missing(place: st.delta_generator.DeltaGenerator, name: str, words: Words) -> None:
    place.metric(name, "–")
    place.markdown(words("figure.not_recorded"))
    place.caption(words("figure.not_recorded_meaning"))
