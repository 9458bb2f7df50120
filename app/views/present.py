"""Present: a presentation step by step, with speaker notes and recorded figures; one file to take along.

A script that is read from top to bottom. It shows what was recorded and never runs a model.
"""

import streamlit as st

from app import text
from app.components.present import slides
from app.components.shared.message import failure
from app.state.ending import end_page

words = text.load(st.session_state.lang)

st.title(words("page.present"))
st.caption(words("present.tagline"))
try:
    deck = slides.choose_deck(words)
    if deck is None:
        end_page()
    step = slides.choose_step(deck, words)
    slides.draw_text(step, words)
    if step.view is not None:
        slides.draw_view(deck, step.view, words)
    slides.download(deck, words)
except Exception as error:
    failure(error, words)
