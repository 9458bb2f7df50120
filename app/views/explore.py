"""Explore: type a text, see what the gate decided, what that costs or saves, and why.

A script that is read from top to bottom. It knows results and components; what a number means is
computed in figures.py, what it looks like in the chart modules.
"""

from itertools import islice

import streamlit as st

from app import text
from app.components.explore import plain_words
from app.components.explore.headline import headline
from app.components.shared import crossed, guarding
from app.components.shared import figures as numbers
from app.components.shared.continuations import continuations
from app.components.shared.keeping import keep_run
from app.components.shared.maps import maps
from app.components.shared.measured import show_measurement
from app.components.shared.outcome import add_times, ask, outcome, warn_if_stale
from app.service import Client
from app.state import session
from app.state.ending import end_page
from app.state.examples import gallery

words = text.load(st.session_state.lang)
state = st.session_state
choice: session.Choice = state.choice
client = Client()


st.title(words("app.title"))
st.caption(words("app.tagline"))

# 1. The text.
st.text_area(
    words("explore.text"), key="text", height=130, placeholder=words("explore.placeholder")
)
st.button(words("explore.run"), type="primary", on_click=ask, key="run")
opened = choice.recording is not None or choice.stored is not None
nothing_yet = "shown" not in state and not state.get("pending") and not opened
if nothing_yet:
    st.info(words("explore.first"))
with st.expander(words("explore.examples"), expanded=nothing_yet):
    cards = st.container(horizontal=True, gap="small")
    for example in gallery(choice.name):
        card = cards.container(border=True, width=173, height="stretch", gap="small")
        card.button(
            example.titles[words.lang],
            on_click=ask,
            args=(example.text,),
            key=f"try-{example.id}",
            width="stretch",
        )
        card.caption(example.descriptions[words.lang])
        if choice.model is not None:
            count = session.count_tokens(choice.model, choice.name, example.text)
            card.caption(words("explore.tokens", tokens=count))

# 2. The run.
result = outcome(choice, client, words)
if result is None:
    end_page()

if result.request is not None and not state.get("linked", True):
    st.caption(words("explore.no_link"))

# 3. What came out, in one sentence and four figures; of the clock's rounds the first.
if not result.trace.model.trained:
    st.error(words("untrained.banner", model=text.plain(result.trace.model.name)))
warn_if_stale(result, choice, words)
top = st.empty()
with top.container():
    headline(numbers.figures(result), result, words)
times = add_times(result, client, words)
for result in islice(times, 1):
    with top.container():
        headline(numbers.figures(result), result, words)

guarding.note(result.trace, words)

# 4. What each would write next.
if not numbers.is_encoder(result):
    continuations(result, words)

# Or, of a task: the labels, and what was crossed out on the way.
crossed.labels(result, words)
crossed.crossed_out(result, words)

# The same in plain words.
plain_words.explanation(numbers.figures(result), result, words)

# 5. and 6. Which pairs were kept, and why.
maps(result, words)
st.page_link("views/gate_map.py", label=words("explore.to_map"), icon=":material/grid_on:")

# 7. The other rounds, while all of this can be read, and how it was measured.
for result in times:
    with top.container():
        headline(numbers.figures(result), result, words)
show_measurement(numbers.figures(result), result, words)
keep_run(result, words)
