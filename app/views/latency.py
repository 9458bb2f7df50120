"""Latency: from which length SAA is faster on this machine, where the time goes, and the setting
that suits this text.

A script that is read from top to bottom. It measures when asked to, never by itself.
"""

import streamlit as st

from app import text
from app.components.latency import latency as costs
from app.components.latency.timeline import show_timeline
from app.components.shared.message import failure
from app.components.shared.outcome import outcome
from app.service import Client
from app.state import session

words = text.load(st.session_state.lang)
choice: session.Choice = st.session_state.choice
client = Client()

st.title(words("page.latency"))
st.caption(words("latency.tagline"))

try:
    costs.by_length(choice, client, words)
except Exception as error:
    failure(error, words, model=choice.name)

st.subheader(words("latency.text_header"), anchor="text")
result = outcome(choice, client, words)
if result is None:
    st.info(words("latency.nothing"))
    st.page_link("views/explore.py", label=words("gate_map.to_explore"))
elif result.request is None:
    st.info(words("latency.recorded"))
else:
    try:
        costs.by_setting(result, client, words)
        show_timeline(result, client, words)
    except Exception as error:
        failure(error, words, model=choice.name)
