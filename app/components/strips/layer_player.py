"""The text, and layer by layer what of it is no longer computed; played in the browser, without the server.

Knows strings and layers, not a trace.
"""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
_mount = st.components.v2.component(
    "saa_layer_player",
    css=(HERE / "layer_player.css").read_text(encoding="utf-8"),
    js=(HERE / "layer_player.js").read_text(encoding="utf-8"),
)


def layer_player(
    tokens: Sequence[str],
    *,
    gone: Sequence[int],
    left: Sequence[int],
    start: int,
    words: dict[str, str],
    kept_colour: str,
    dense_colour: str,
    gone_colour: str,
    key: str,
) -> None:
    """Draws the text with a bar per layer, a slider over the layers and a button that plays them.

    Args:
        tokens: as they stand in the text, white space included; shown as plain text.
        gone: the layer that is the first not to compute a token; ``len(left)`` where all do.
        left: tokens that each layer computes, special ones included.
        start: the layer that is shown first.
        words: "play", "pause", "layer" (label of the slider), "bars", and "state" with the fields layer, left,
            all and gone.
    """
    _mount(
        key=key,
        data={
            "tokens": list(tokens),
            "gone": [int(layer) for layer in gone],
            "left": [int(count) for count in left],
            "start": start,
            "words": words,
            "keptColour": kept_colour,
            "denseColour": dense_colour,
            "goneColour": gone_colour,
        },
    )
