"""What a classification task shows beside pairs: labels of both sides, tokens crossed out layer by layer.

Texts of people are only ever shown as plain text.
"""

import html

import streamlit as st

from app.charts import label as label_charts
from app.charts.palette import palette
from app.components.shared.download import export
from app.components.shared.figures import compare_labels
from app.components.shared.maps import pieces
from app.live.values import Result
from app.text import Words


def labels(result: Result, words: Words) -> None:
    """The probability of each label, dense beside SAA."""
    if result.trace.labels is None:
        return
    st.subheader(words("labels.header"), anchor="labels")
    st.caption(words(f"labels.{compare_labels(result)}"))
    dark = st.context.theme.type == "dark"
    chart = label_charts.label_bars(result.dense, result.trace, words, dark)
    st.altair_chart(chart, key="label_bars")
    export("labels", words("labels.header"), words, result.trace, chart=chart)


@st.fragment
def crossed_out(result: Result, words: Words) -> None:
    """The text with the tokens crossed out that a layer no longer computes; a slider over layers."""
    trace = result.trace
    if trace.kept_tokens is None:
        return
    st.subheader(words("crossed.header"), anchor="crossed")
    st.caption(words("crossed.caption"))
    dark = st.context.theme.type == "dark"
    colours = palette(dark)
    last = len(trace.kept_tokens) - 1
    left, right = st.columns([3, 2], gap="medium")
    with left:
        layer = st.slider(words("crossed.layer"), 0, last, value=last, key="crossed_layer")
        alive, before = trace.kept_tokens[layer], trace.kept_tokens[max(layer - 1, 0)]
        st.markdown(
            words(
                "crossed.state",
                layer=layer,
                left=int(alive.sum()),
                all=trace.keys,
                gone=int((before & ~alive).sum()),
            )
        )
        parts = []
        for piece, lives, lived in zip(pieces(trace), alive, before, strict=True):
            shown = html.escape(piece).replace("\n", "<br>")
            if lives:
                parts.append(shown)
            elif lived:
                style = f"background:{colours.changed}55;text-decoration:line-through"
                parts.append(f'<s style="{style}">{shown}</s>')
            else:
                parts.append(f'<s style="opacity:.7">{shown}</s>')
        st.html(f'<p style="margin:0;line-height:1.7">{"".join(parts)}</p>')
    with right:
        chart = label_charts.tokens_left(trace, layer, words, dark)
        st.altair_chart(chart, key="tokens_left")
        export("tokens-left", words("crossed.header"), words, trace, chart=chart)
