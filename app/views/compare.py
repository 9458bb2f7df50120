"""Compare: two texts, policies, gates or models side by side, and what differs between them.

A script that is read from top to bottom. Side A is what the sidebar says, side B what its card says.
"""

import streamlit as st

from app import text
from app.components.compare import both_sides, side_choice
from app.components.compare.differing import decisions
from app.components.shared.message import failure
from app.service import Client
from app.state import session
from app.state.ending import end_page

words = text.load(st.session_state.lang)
choice: session.Choice = st.session_state.choice
client = Client()

st.title(words("page.compare"))
st.caption(words("compare.tagline"))

sides = side_choice.sides(choice, client, words)
compared = side_choice.outcome(sides, client, words)
if compared is None:
    end_page()

both_sides.verdict(compared, words)
both_sides.figures(compared, words)
both_sides.texts(compared, words)
try:
    both_sides.outputs(compared, words)
except Exception as error:
    failure(error, words)
decisions(compared, words)
