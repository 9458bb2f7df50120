"""Gate map: every decision of one run, from the grid of heads down to one pair and its reasons.

A script that is read from top to bottom. It shows the result that Explore made, a recording, or
what its address asks for.
"""

import streamlit as st

from app import text
from app.components.gate_map.explorer import explorer
from app.components.shared.keeping import keep_run
from app.components.shared.outcome import outcome
from app.service import Client
from app.state import session
from app.state.ending import end_page

words = text.load(st.session_state.lang)
choice: session.Choice = st.session_state.choice
client = Client()

st.title(words("page.gate_map"))
st.caption(words("gate_map.tagline"))

result = outcome(choice, client, words)
if result is None:
    st.info(words("gate_map.nothing"))
    st.page_link("views/explore.py", label=words("gate_map.to_explore"))
    end_page()

trace = result.trace
state = words("gate_map.trained" if trace.model.trained else "gate_map.untrained")
st.markdown(
    words(
        "gate_map.what",
        model=text.plain(trace.model.name),
        gate=text.plain(trace.model.gate),
        state=state,
        tokens=trace.keys,
        policy=text.plain(str(trace.policy or words("measured.policy_dense"))),
    )
)
if not trace.model.trained:
    st.error(words("untrained.banner", model=text.plain(trace.model.name)))
explorer(result, choice, client, words)
keep_run(result, words)
