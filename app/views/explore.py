"""Explore: type a text, see what the gate decided, what that costs or saves, and why.

A script that is read from top to bottom. It knows results and components; what a number means is
computed in figures.py, what it looks like in charts.py.
"""

import figures as numbers
import link
import session
import streamlit as st
import text
from components import sections
from components.maps import maps
from components.message import failure
from examples import examples, texts

words = text.load(st.session_state.lang)
state = st.session_state
choice: session.Choice = state.choice
client = session.Client()


def ask(content: str | None = None) -> None:
    """A button was pressed: run the text in the box, or this one."""
    if content is not None:
        state.text = content
    state.pending = True


st.title(words("app.title"))
st.caption(words("app.tagline"))

# 1. The text.
st.text_area(
    words("explore.text"), key="text", height=130, placeholder=words("explore.placeholder")
)
st.button(words("explore.run"), type="primary", on_click=ask, key="run")
nothing_yet = "shown" not in state and not state.get("pending") and choice.recording is None
if nothing_yet:
    st.info(words("explore.first"))
with st.expander(words("explore.examples"), expanded=nothing_yet):
    cards = st.container(horizontal=True, gap="small")
    for example in examples().values():
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
result: session.Result | None = None
if choice.recording is not None:
    try:
        result = session.open_trace(choice.recording.name, choice.recording.getvalue())
    except Exception as error:
        failure(error, words)
        st.stop()
    st.info(words("explore.recorded", name=text.plain(choice.recording.name)))
elif state.get("pending") and choice.model is not None:
    request = session.Request(choice.name, state.text, choice.policy)
    earlier, state.shown, state.failed = session.recall(state.get("shown")), request, None
    if session.recall(request) is None:
        bar = st.progress(0.0)
        try:
            session.remember(
                client.run(
                    request,
                    lambda step, done: bar.progress(done, text=words(f"progress.{step}")),
                    earlier,
                )
            )
        except Exception as error:
            state.failed = error
        bar.empty()
    # Only now: a run that was interrupted by another click starts again.
    state.pending = False
    state.linked = link.write_text(request.text, texts())
    link.write(
        lang=words.lang,
        mass=f"{request.policy.mass:.2f}",
        model=request.model if request.model in session.MODELS else None,
    )

if result is None and state.get("failed") is not None:
    failure(state.failed, words, model=choice.name, text=state.shown.text)
    if getattr(state.failed, "cut_at", None) is not None:
        cut = state.shown.text[: state.failed.cut_at]
        st.button(words("error.cut"), type="primary", on_click=ask, args=(cut,), key="cut")
    st.stop()
if result is None and "shown" in state:
    result = session.recall(state.shown)
if result is None:
    st.stop()

if result.request is not None and not state.get("linked", True):
    st.caption(words("explore.no_link"))

# 3. What came out, in one sentence and four figures.
trace = result.trace
found = numbers.figures(result)
if not trace.model.trained:
    st.error(words("untrained.banner", model=text.plain(trace.model.name)))
if result.request is not None and result.request.policy != choice.policy:
    shown = result.request.policy
    note, again = st.columns([4, 1], vertical_alignment="center")
    note.warning(
        words(
            "explore.stale",
            mass=shown.mass,
            kernel=words(f"choice.{shown.kernel}"),
            granularity=words(f"choice.{shown.granularity}"),
        )
    )
    again.button(
        words("explore.rerun"),
        on_click=ask,
        args=(result.request.text,),
        key="again",
        width="stretch",
    )
sections.verdict(found, words)
sections.time_note(found, result, words)
sections.four_figures(found, result, words)

# 4. What each would write next.
sections.continuations(result, words)

# 5. and 6. Which pairs were kept, and why.
maps(result, words)

# 7. How it was measured.
sections.measured(found, result, words)
