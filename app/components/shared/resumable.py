"""Work of many small items that a visitor starts, watches, cancels and takes up again."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import streamlit as st

from app.components.shared.message import failure
from app.text import Words

Item = TypeVar("Item")
TURN = 1.0
"""Seconds that items are worked on before a click is looked at."""
PAUSE = 0.1
"""Seconds between such turns."""


def resumable(
    name: str,
    wanted: object,
    found: list[Item],
    total: int,
    rest: Callable[[], Iterable[Item]],
    words: Words,
    **about: object,
) -> None:
    """The button that starts or takes up the work, or its progress and the button that cancels it.

    Args:
        name: of the work: in the page's texts, the session's state and the buttons' keys.
        wanted: what the work is about; work about something else stops.
        found: the items that are done; every further one is kept here as soon as it is there.
        total: how many items there are.
        rest: makes those that are not in ``found`` yet, in order.
        about: for the button's text.
    """
    if st.session_state.get(f"{name}_running") == wanted:
        _turn(name, wanted, found, total, rest, words)
    elif len(found) < total:
        if (failed := st.session_state.get(f"{name}_failed")) and failed[0] == wanted:
            failure(failed[1], words)
        st.button(
            words(f"{name}.{'resume' if found else 'start'}", **about),
            on_click=_set_running,
            args=(name, wanted),
            key=f"{name}_start",
        )


def _set_running(name: str, wanted: object) -> None:
    st.session_state[f"{name}_running"] = wanted
    st.session_state.pop(f"{name}_failed", None)


@st.fragment(run_every=PAUSE)
def _turn(
    name: str,
    wanted: object,
    found: list[Item],
    total: int,
    rest: Callable[[], Iterable[Item]],
    words: Words,
) -> None:
    """Works for a moment, again and again: a click inside a fragment waits until the fragment's run has
    ended."""
    if st.session_state.get(f"{name}_running") != wanted:
        st.rerun()
    st.button(words(f"{name}.cancel"), on_click=_set_running, args=(name, None), key=f"{name}_stop")
    bar = st.progress(len(found) / total)
    started, before = time.monotonic(), len(found)
    try:
        for item in rest():
            found.append(item)
            passed = time.monotonic() - started
            left = passed / (len(found) - before) * (total - len(found))
            done = words(f"{name}.progress", done=len(found), total=total, seconds=round(left))
            bar.progress(len(found) / total, text=done)
            if passed > TURN:
                return
    except Exception as error:
        # Shown by the run of the page that follows, which draws this part anew.
        st.session_state[f"{name}_failed"] = wanted, error
    st.session_state[f"{name}_running"] = None
    st.rerun()
