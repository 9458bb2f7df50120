"""What an empty page offers: recorded runs that ship, put into the store when a visitor asks for them."""

import streamlit as st

from app.state import records
from app.state.stories import FOLDER
from app.text import Words
from saa_core.data import fetch
from saa_core.store import ids

RUNS = ("mail", "jokes")
"""Beginnings of the names of those runs of the presentations that Traces offers."""


def offer(kind: str, words: Words) -> None:
    """A button that fills the page.

    Args:
        kind: "runs" or "audit".
    """
    if st.button(words(f"example.{kind}"), type="primary", key="fill"):
        files = [FOLDER / "audit.zip"]
        if kind == "runs":
            shown = sorted((fetch.assets() / "decks").glob("*.saa"))
            files = [file for file in shown if ids.name_of(file.stem).startswith(RUNS)]
        for file in files:
            records.store().import_(file)
        st.rerun()
    st.caption(words(f"example.{kind}_about"))
