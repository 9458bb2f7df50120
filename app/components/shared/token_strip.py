"""The text as a strip of tokens that can be chosen. Knows strings and shades, not a trace."""

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
_mount = st.components.v2.component(
    "saa_token_strip",
    css=(HERE / "token_strip.css").read_text(encoding="utf-8"),
    js=(HERE / "token_strip.js").read_text(encoding="utf-8"),
)


def token_strip(
    tokens: Sequence[str],
    *,
    shades: Sequence[float],
    titles: Sequence[str],
    chosen: int,
    kept: Sequence[int],
    label: str,
    shade_colour: str,
    kept_colour: str,
    on_choose: Callable[[], None],
    key: str,
) -> None:
    """Draws the strip. Tokens are shown as plain text, whatever they contain.

    Args:
        tokens: as they stand in the text, white space included.
        shades: 0 to 1 per token.
        kept: tokens to underline: the ones that the chosen token looks at.
        on_choose: called when a token was chosen; it lies in ``st.session_state[key].token``.
    """
    _mount(
        key=key,
        data={
            "tokens": list(tokens),
            "shades": [round(shade, 2) for shade in shades],
            "titles": list(titles),
            "chosen": chosen,
            "kept": [int(position) for position in kept],
            "label": label,
            "shadeColour": shade_colour,
            "keptColour": kept_colour,
        },
        on_token_change=on_choose,
    )
