"""Dataset: what an audit of many texts found, by slice and spread out, and from a bar to its texts.

A script that is read from top to bottom. It reads the store; only a table that a visitor brings is run.
"""

import streamlit as st

from app import text
from app.components.dataset import against, audits
from app.components.dataset.upload import upload
from app.components.shared import examples
from app.components.shared.message import failure
from app.service import Client
from app.state import address as link
from app.state import records, session
from app.state.ending import end_page
from saa_core.audit.figures import audits as all_audits
from saa_core.audit.figures import by_slice

words = text.load(st.session_state.lang)
choice: session.Choice = st.session_state.choice
client = Client()

st.title(words("page.dataset"))
st.caption(words("dataset.tagline"))
try:
    upload(choice, client, not records.answer(all_audits), words)
    which = audits.choose_audit(words)
    if which is None:
        st.info(words("dataset.nothing"))
        examples.offer("audit", words)
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
    against.compare(which, choice, client, words)
    link.write(
        lang=words.lang, audit=which.key, slice=part, against=st.session_state.get("against")
    )
except Exception as error:
    failure(error, words)
