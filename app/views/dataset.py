"""Dataset: what an audit of many texts found, by slice and spread out, and from a bar to its texts.

A script that is read from top to bottom. It reads the store, never a model.
"""

import streamlit as st

from app import text
from app.components.dataset import audits
from app.components.shared.message import failure
from app.state import address as link
from app.state import records
from app.state.ending import end_page
from saa_core.audit.figures import by_slice

words = text.load(st.session_state.lang)

st.title(words("page.dataset"))
st.caption(words("dataset.tagline"))
try:
    which = audits.choose_audit(words)
    if which is None:
        st.info(words("dataset.nothing"))
        st.code("saa audit my_texts.jsonl --limit 100", language="sh")
        st.caption(words("dataset.nothing_how"))
        end_page()
    rows = records.answer(by_slice, which)
    audits.summary(which, rows[0], words)
    left, right = st.columns(2, gap="large")
    with left:
        part = audits.slices(which, rows, words)
    with right:
        measure, bar = audits.spread(which, part, words)
    audits.texts(which, part, measure, bar, words)
    link.write(lang=words.lang, audit=which.key, slice=part)
except Exception as error:
    failure(error, words)
