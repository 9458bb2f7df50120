"""Traces: the runs that were kept, found by filters or SQL, opened, noted, exported, deleted.

A script that is read from top to bottom. It reads the store, never a model.
"""

import streamlit as st

from app import text
from app.components.shared import examples
from app.components.shared.message import failure
from app.components.traces import runs_table
from app.state import records
from app.state.ending import end_page

words = text.load(st.session_state.lang)

st.title(words("page.traces"))
st.caption(words("traces.tagline"))
try:
    runs_table.import_file(words)
    runs_table.list_broken(words)
    if not records.store().ids():
        st.info(words("traces.nothing"))
        examples.offer("runs", words)
        st.page_link("views/explore.py", label=words("gate_map.to_explore"))
        end_page()
    found = runs_table.ask(words)
    if found is not None:
        runs_table.table(found, words)
        runs_table.actions(words)
except Exception as error:
    failure(error, words)
