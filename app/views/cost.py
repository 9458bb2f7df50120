"""Cost: machines and money per month, dense against SAA, from measured times and open assumptions.

A script that is read from top to bottom. It prints on A4 without controls: see print.css.
"""

from dataclasses import asdict
from pathlib import Path

import streamlit as st

from app import text
from app.components.cost import cost as bill
from app.components.shared.message import failure
from app.export.provenance import about_timings
from app.live.models import MODELS
from app.state import address as link
from app.state import session
from app.state.ending import end_page
from saa_core.run.costs import pair_timings, saving

words = text.load(st.session_state.lang)
choice: session.Choice = st.session_state.choice

st.html(Path(__file__).parent.parent / "components" / "cost" / "print.css")
st.title(words("page.cost"))
st.caption(words("cost.tagline"))
if choice.model is None:
    end_page()
link.write(
    lang=words.lang,
    model=choice.name if choice.name in MODELS else None,
    **link.aim_values(choice.policy),
)

top = st.container()
assumed, currency = bill.assumptions(words)
st.subheader(words("cost.measured_header"), anchor="measured")
try:
    timings = bill.source(choice, words)
    if not timings:
        end_page()
    found = pair_timings(timings)
    chosen = saving(bill.length(found, words), assumed)
except Exception as error:
    failure(error, words, model=choice.name)
    end_page()
with top:
    bill.verdict(chosen, currency, words)
about = about_timings(timings) | {"assumed": asdict(assumed), "currency": currency}
bill.figures(chosen, currency, about, words)
bill.by_length(found, assumed, currency, about, words)
bill.method(assumed, words)
st.caption(words("cost.print"))
