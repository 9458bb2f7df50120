"""The whole map of one head as a canvas with a window that moves. Knows a picture, not a trace.

A click, a drag or an arrow key sends the pair in the middle of the window.
"""

import base64
from collections.abc import Callable
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
_mount = st.components.v2.component(
    "saa_pair_map",
    css=(HERE / "pair_map.css").read_text(encoding="utf-8"),
    js=(HERE / "pair_map.js").read_text(encoding="utf-8"),
)


def pair_map(
    png: bytes,
    *,
    tokens: int,
    frame: tuple[int, int, int],
    chosen: tuple[int, int],
    label: str,
    colour: str,
    on_choose: Callable[[], None],
    key: str,
) -> None:
    """Draws the map.

    Args:
        tokens: queries and keys of the map.
        frame: first query, first key and size of the window, in tokens.
        colour: of the window and the chosen pair.
        on_choose: called when a pair was sent; it lies in ``st.session_state[key].pair``.
    """
    _mount(
        key=key,
        data={
            "png": "data:image/png;base64," + base64.b64encode(png).decode(),
            "tokens": tokens,
            "frame": list(frame),
            "chosen": list(chosen),
            "label": label,
            "colour": colour,
        },
        on_pair_change=on_choose,
    )
