"""What a classification task shows beside pairs: labels of both sides, tokens crossed out layer by layer.

Texts of people are only ever shown as plain text.
"""

import numpy as np
import streamlit as st

from app.charts import label as label_charts
from app.charts.palette import palette
from app.charts.token_labels import CONTINUED
from app.components.shared.download import titled
from app.components.shared.figures import compare_labels
from app.components.strips.layer_player import layer_player
from app.components.strips.text_strip import pieces
from app.live.values import Result
from app.text import Words
from saa_core import Trace


def labels(result: Result, words: Words) -> None:
    """The probability of each label, dense beside SAA."""
    if result.trace.labels is None:
        return
    dark = st.context.theme.type == "dark"
    chart = label_charts.label_bars(result.dense, result.trace, words, dark)
    titled("labels", words("labels.header"), words, result.trace, chart=chart)
    st.caption(words(f"labels.{compare_labels(result)}"))
    st.altair_chart(chart, key="label_bars")


def crossed_out(result: Result, words: Words, start: int | None = None) -> None:
    """The text with the tokens crossed out that a layer no longer computes, layer by layer.

    Args:
        start: the layer that is shown first; None is :func:`half_way`.
    """
    trace = result.trace
    if trace.kept_tokens is None:
        return
    dark = st.context.theme.type == "dark"
    first = half_way(trace) if start is None else start
    chart = label_charts.tokens_left(trace, first, words, dark)
    titled("tokens-left", words("crossed.header"), words, trace, anchor="crossed", chart=chart)
    st.caption(words("crossed.caption"))
    play(trace, words, "crossed", first)


def play(trace: Trace, words: Words, key: str, start: int) -> None:
    """The text and its layers as they are played, from a layer on; of a trace whose tokens can be dropped."""
    assert trace.kept_tokens is not None
    colours = palette(st.context.theme.type == "dark")
    left = trace.kept_tokens.sum(1)
    layer_player(
        ["" if piece == CONTINUED else piece for piece in pieces(trace)],
        gone=first_without(trace),
        left=left,
        start=start,
        words={name: words.table[f"player.{name}"] for name in ("play", "pause", "layer", "state")}
        | {"bars": words("player.bars", left=" → ".join(map(str, left)))},
        kept_colour=colours.kept,
        dense_colour=colours.dropped,
        gone_colour=colours.changed,
        key=key,
    )


def half_way(trace: Trace) -> int:
    """The layer that computes closest to half of the tokens: there the choice is easiest to see."""
    assert trace.kept_tokens is not None
    return int(np.abs(trace.kept_tokens.mean(1) - 0.5).argmin())


def first_without(trace: Trace) -> list[int]:
    """Of each token the first layer that does not compute it; the number of layers where all do."""
    assert trace.kept_tokens is not None
    gone = ~trace.kept_tokens
    found: list[int] = np.where(gone.any(0), gone.argmax(0), len(gone)).tolist()
    return found
