"""What a page says besides its content: an error as a sentence, never a traceback, and how far a run is.

The library's own message names arguments and choices; it stands below, folded, as plain text.
"""

import logging
from typing import Any

import streamlit as st

import saa_core as saa
from app.live.jobs import Report
from app.text import Words, plain

KINDS: tuple[tuple[type[Exception], str], ...] = (
    (saa.ModelError, "model"),
    (saa.FetchError, "fetch"),
    (saa.GateError, "gate"),
    (saa.KernelError, "kernel"),
    (saa.TraceError, "trace"),
    (saa.StoreError, "store"),
    (saa.PolicyError, "policy"),
    (saa.DeckError, "deck"),
)


def failure(error: Exception, words: Words, *, model: str = "", text: str = "") -> None:
    """Shows what went wrong and what to do about it.

    Args:
        model: name of the model that was asked for.
        text: the text that was to be run.
    """
    if isinstance(error, saa.TextError) and error.limit is not None:
        st.error(words("error.long", length=error.length, limit=error.limit, cut=error.cut_at))
        st.code(
            "… " + text[max(0, error.cut_at - 160) : error.cut_at], language=None, wrap_lines=True
        )
        return
    if isinstance(error, saa.TextError):
        st.error(words("error.invalid" if text.strip() else "error.empty"))
        return
    kind = next((kind for tree, kind in KINDS if isinstance(error, tree)), "other")
    if kind == "other":
        logging.getLogger("saa.app").error("unexpected", exc_info=error)
    st.error(words(f"error.{kind}", model=plain(model)))
    with st.expander(words("error.detail")):
        st.text(f"{type(error).__name__}: {error}")


def report_on(bar: st.delta_generator.DeltaGenerator, words: Words) -> Report:
    """What a client calls to say how far it is, shown by a bar."""

    def report(step: str, share: float, **known: Any) -> None:
        bar.progress(min(max(share, 0.0), 1.0), text=describe_step(words, step, **known))

    return report


def describe_step(
    words: Words, step: str, *, left: float | None = None, place: int | None = None
) -> str:
    """A step in words.

    Args:
        left: seconds that are still to go.
        place: turns that come before.
    """
    if place is not None:
        return words("progress.place", place=place)
    said = words(f"progress.{step}")
    return said if left is None or left < 1 else f"{said} {words('progress.left', seconds=left)}"
