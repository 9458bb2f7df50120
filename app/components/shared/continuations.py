"""What each side would write next, words that differ marked; shown as plain text only."""

import difflib
import html
import re

import streamlit as st

from app.charts.palette import LIGHT
from app.live.values import Result
from app.text import Words


def continuations(result: Result, words: Words) -> None:
    """Both continuations behind the end of the text, words that differ marked."""
    st.subheader(words("continue.header"), anchor="continuations")
    if result.request is None:
        st.caption(words("continue.not_recorded"))
        return
    sides = result.dense_words or "", result.words or ""
    st.caption(words("continue.same" if sides[0] == sides[1] else "continue.differs"))
    left, right = (side or html.escape(words("continue.empty")) for side in mark(*sides))
    tail = html.escape(last_words(result.trace.text))
    space = " " if result.trace.text[-1:].isspace() else ""
    colour = LIGHT.changed
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
