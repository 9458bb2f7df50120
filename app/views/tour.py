"""Tour: from a text to what was dropped, and from one word that is kept to another answer.

A script that is read from top to bottom. It shows what was recorded and never runs a model.
"""

import streamlit as st

from app import text
from app.components.shared.message import failure
from app.components.tour import steps

words = text.load(st.session_state.lang)

st.title(words("page.tour"))
try:
    steps.draw(steps.choose_step(words), words)
    st.caption(words("tour.recorded"))
except Exception as error:
    failure(error, words)
if st.session_state.get("pending"):
    st.switch_page("views/explore.py")
