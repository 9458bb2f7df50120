"""Trust: what a guard promises and keeps, what it does when a gate is broken, what the setting costs on rare
kinds of texts, and how true a gate's word is.

A script that is read from top to bottom. It tries things on the text of Explore, when asked to.
"""

import streamlit as st

from app import text
from app.components.shared.message import failure
from app.components.shared.outcome import ask, outcome, warn_if_stale
from app.components.trust import rare, trust
from app.service import Client
from app.state import session
from app.state.examples import gallery

words = text.load(st.session_state.lang)
choice: session.Choice = st.session_state.choice
client = Client()

st.title(words("page.trust"))
st.caption(words("trust.tagline"))

result = outcome(choice, client, words)
if result is None:
    st.info(words("trust.nothing"))
    example = gallery(choice.name)[0]
    st.button(
        words("trust.use_example", title=example.titles[words.lang]),
        on_click=ask,
        args=(example.text,),
        type="primary",
        key="use-example",
    )
elif result.request is None:
    st.info(words("trust.recorded"))
    trust.of_this_run(result.trace, words)
elif result.trace.labels is not None:
    st.info(words("trust.task"))
    trust.of_this_run(result.trace, words)
else:
    warn_if_stale(result, choice, words)
    trust.of_this_run(result.trace, words)
    st.subheader(words("trust.try_header"), anchor="try")
    st.caption(
        words(
            "trust.try_caption",
            tokens=result.trace.keys,
            policy=text.plain(str(result.request.policy)),
            model=text.plain(result.trace.model.name),
        )
    )
    try:
        found = trust.trial(result, client, words)
        if found is None:
            st.info(words("trust.not_yet"))
        else:
            trust.outcome(found, words)
            trust.promise(found.guarded.events, trust.missed_mass(found.guarded), words)
            trust.events_table(found.guarded.events, words)
            trust.cost(found, words)
    except Exception as error:
        failure(error, words, model=choice.name)

rare.slices(choice, client, words)
trust.word_of_the_gate(choice, words)
