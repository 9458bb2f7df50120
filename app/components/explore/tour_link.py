"""The way into the tour: its beginning, or where a visitor has left it."""

import streamlit as st

from app.components.tour.steps import STEPS
from app.text import Words


def tour_link(words: Words) -> None:
    at = st.session_state.get("tour")
    if at is None:
        label = words("story.tour", steps=len(STEPS))
    elif at + 1 < len(STEPS):
        label = words("story.tour_resume", step=at + 1, steps=len(STEPS))
    else:
        label = words("story.tour_again")
    st.page_link("views/tour.py", label=f"**{label}**")
