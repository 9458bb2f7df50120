"""Explore: a recorded story first; then a text of one's own, what the gate left out of it, and what that saves.

A script that is read from top to bottom. It knows results and components; what a number means is
computed in figures.py, what it looks like in the chart modules.
"""

from itertools import islice

import streamlit as st

from app import text
from app.components.explore import plain_words
from app.components.explore.headline import headline
from app.components.explore.story import show_stories
from app.components.explore.three_figures import further_figures
from app.components.explore.tour_link import tour_link
from app.components.shared import figures as numbers
from app.components.shared import guarding
from app.components.shared.continuations import continuations
from app.components.shared.keeping import keep_run
from app.components.shared.maps import maps
from app.components.shared.measured import show_measurement
from app.components.shared.outcome import add_times, ask, outcome, warn_if_stale
from app.components.sidebar.choice import asked_for_something
from app.components.strips import crossed
from app.components.strips.layer_strip import layer_strip
from app.service import Client
from app.state import session
from app.state.ending import end_page
from app.state.examples import gallery

words = text.load(st.session_state.lang)
state = st.session_state
choice: session.Choice = state.choice
client = Client()

# 1. What it is, and before the first run what was recorded.
st.title(words("app.title"))
nothing_yet = not asked_for_something()
if nothing_yet:
    said, tour = st.columns([7, 4], vertical_alignment="center")
    said.markdown(words("story.lead"))
    with tour:
        tour_link(words)
    show_stories(words)
    st.subheader(words("story.own"), anchor="own")

# 2. The text.
box, button = st.columns([6, 1], vertical_alignment="bottom")
box.text_area(
    words("explore.text"), key="text", height=100, placeholder=words("explore.placeholder")
)
button.button(words("explore.run"), type="primary", on_click=ask, key="run", width="stretch")
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

# 3. The run.
result = outcome(choice, client, words)
if result is None:
    end_page()

if result.request is not None and not state.get("linked", True):
    st.caption(words("explore.no_link"))

# 4. What came out, in one sentence and three figures; of the clock's rounds the first.
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

# 5. What was left out: of a task whole tokens, crossed out; of pairs layer by layer.
crossed.crossed_out(result, words)
layer_strip(result.trace, words)

# 6. The rest, part by part: which pairs and why, what each would write, plain words, how it was measured.
names = ["pairs", "labels" if result.trace.labels is not None else "written", "plain", "measured"]
if numbers.is_encoder(result) and result.trace.labels is None:
    names.remove("written")
tabs = dict(zip(names, st.tabs([words(f"tab.{name}") for name in names]), strict=True))
with tabs["pairs"]:
    maps(result, words)
    st.page_link("views/gate_map.py", label=words("explore.to_map"))
if "written" in tabs:
    with tabs["written"]:
        continuations(result, words)
if "labels" in tabs:
    with tabs["labels"]:
        crossed.labels(result, words)
plain = tabs["plain"].empty()
with plain.container():
    further_figures(numbers.figures(result), result, words)
    plain_words.explanation(numbers.figures(result), result, words)

# 7. The other rounds, while all of this can be read, and how it was measured.
for result in times:
    with top.container():
        headline(numbers.figures(result), result, words)
    with plain.container():
        further_figures(numbers.figures(result), result, words)
        plain_words.explanation(numbers.figures(result), result, words)
with tabs["measured"]:
    show_measurement(numbers.figures(result), result, words)
keep_run(result, words)
