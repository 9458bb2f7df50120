"""Keeps a live run in the store, and says where it is then."""

import streamlit as st

from app import run_page
from app.components.shared.message import failure
from app.live.values import Result
from app.state import records
from app.text import Words, plain


def keep_run(result: Result, words: Words) -> None:
    """A button under a live result that is complete; of a recorded one nothing is drawn. What is still being
    measured would look final when it is opened again, and is said to be kept later."""
    if result.request is None:
        return
    if not result.complete:
        st.caption(words("keep.later"))
        return
    try:
        run = records.kept_as(result)
        if run is None and st.button(
            words("keep.button"), key="keep", help=words("keep.help", folder=records.store().folder)
        ):
            run = records.keep(result)
            st.rerun()
        if run is not None:
            st.success(words("keep.kept", id=plain(run), link=permalink(run, words)))
    except Exception as error:
        failure(error, words)


def permalink(run: str, words: Words) -> str:
    """The address, from the root of the server, at which a stored run opens at once."""
    return run_page.address(run, words.lang)
