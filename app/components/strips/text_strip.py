"""The text as a strip of tokens, each shaded by how much attention it receives; choosing one moves the cursor.

Also the text cut into pieces by token, as every view shows it.
"""

from collections.abc import Callable

import numpy as np
import streamlit as st

from app.charts.palette import palette
from app.charts.token_labels import CONTINUED, labels
from app.components.shared.download import titled
from app.components.shared.token_strip import token_strip
from app.live.values import Result
from app.text import Words
from saa_core import Trace


def text_strip(result: Result, words: Words, on_choose: Callable[[], None]) -> None:
    """The text; tokens that the chosen one looks at are underlined.

    Args:
        on_choose: called when a token was chosen; it lies in ``st.session_state.strip.token``.
    """
    trace, state = result.trace, st.session_state
    layer, head, q = state.layer, state.head, state.q
    has_maps = trace.policy is None or trace.layers is not None
    colours = palette(st.context.theme.type == "dark")
    source = trace if trace.attention_received is not None else result.dense
    listed = trace if source is None else source
    titled("tokens", words("strip.header"), words, listed, rows=lambda: listed.to_arrow().tokens)
    if source is None or source.attention_received is None:
        st.caption(words("strip.not_recorded"))
        shades, titles = [0.0] * trace.keys, None
    else:
        st.caption(words("strip.caption", layer=layer, head=head))
        received = source.attention_received.mean((0, 1))
        shades = shade(received)
        titles = [
            words("strip.title", position=at, share=words.percent(float(share), 1))
            for at, share in enumerate(received)
        ]
    kept = np.flatnonzero(trace.keep_map(layer, head, np.s_[q : q + 1, :])) if has_maps else ()
    token_strip(
        pieces(trace),
        shades=shades,
        titles=titles or [words("strip.title_plain", position=at) for at in range(trace.keys)],
        chosen=q,
        kept=kept,
        label=words("strip.label"),
        shade_colour=colours.received,
        kept_colour=colours.kept,
        on_choose=on_choose,
        key="strip",
    )


def pieces(trace: Trace) -> list[str]:
    """The text cut at the end of each token, so that no space is lost and nothing is doubled.

    A character of several tokens, as in Japanese, stands in the first; the others are dots.
    """
    if trace.text is None or trace.offsets is None:
        return labels(trace)
    found, done = list[str](), 0
    for _, end in trace.offsets:
        found.append(trace.text[done:end] or CONTINUED)
        done = max(done, end)
    return found


def shade(received: np.ndarray) -> list[float]:
    """0 to 1 on a logarithmic scale between the 5th and 98th percentile: a few tokens get most."""
    logs = np.log(np.maximum(received, 1e-6))
    low, high = np.percentile(logs, [5, 98])
    return [float(x) for x in np.clip((logs - low) / max(high - low, 1e-9), 0, 1)]
