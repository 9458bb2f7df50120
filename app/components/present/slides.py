"""The parts of the Present page: which presentation, its steps, and each step's words, figures and map.

Words of a presentation are only ever draw_view as plain text. Nothing here runs a model.
"""

import streamlit as st

from app.components.shared.maps import CURSOR, bump, forget_frame, maps
from app.components.strips.crossed import crossed_out
from app.state import address as link
from app.state import records, session
from app.text import Words, plain
from saa_core.deck import (
    Deck,
    DeckView,
    Recording,
    Step,
    deck_of_runs,
    find_deck,
    list_decks,
    read_deck,
)
from saa_core.deck.page import deck_html

RUNS = "runs"
"""Choice beside the shipped presentations: runs that were kept."""


def choose_deck(words: Words) -> Deck | None:
    """The presentation to show; None where runs are still to be chosen."""
    state, names = st.session_state, [*list_decks(), RUNS]
    wanted = state.get("deck")
    if wanted is None or link.went_back():
        wanted = st.query_params.get("deck", wanted)
    state["deck"] = wanted if wanted in names else names[-2]
    name: str = st.selectbox(
        words("present.deck"),
        names,
        format_func=lambda name: words("present.runs") if name == RUNS else _title(name, words),
        on_change=_go,
        args=(0,),
        key="deck",
    )
    link.write(lang=words.lang, deck=name)
    if name != RUNS:
        return _read(name, words)
    known = records.store().ids()[::-1]
    state["present_runs"] = [run for run in state.get("present_runs", ()) if run in known]
    runs = st.multiselect(
        words("present.choose_runs"), known, key="present_runs", help=words("present.runs_help")
    )
    if not runs:
        st.info(words("present.no_runs"))
        return None
    return deck_of_runs(runs, words("present.runs"), records.store(), language=words.lang)


def _read(name: str, words: Words) -> Deck:
    return read_deck(find_deck(name), language=words.lang)


def _title(name: str, words: Words) -> str:
    return _read(name, words).title


def choose_step(deck: Deck, words: Words) -> Step:
    """Buttons and keys to step with, and the step that they lead to."""
    state, last = st.session_state, len(deck.steps) - 1
    if "deck_step" not in state or link.went_back():
        asked = st.query_params.get("step", "")
        state.deck_step = int(asked) - 1 if asked.isascii() and asked.isdigit() else 0
    at = state.deck_step = min(max(0, state.deck_step), last)
    back, place, following = st.columns([1, 2, 1], vertical_alignment="center")
    for column, name, key, target in (
        (back, "back", "PageUp", at - 1),
        (following, "next", "PageDown", at + 1),
    ):
        column.button(
            words(f"present.{name}"),
            on_click=_go,
            args=(target,),
            disabled=not 0 <= target <= last,
            key=f"deck_{name}",
            shortcut=key,
            width="stretch",
        )
    place.progress(
        (at + 1) / len(deck.steps), text=words("present.step", step=at + 1, steps=len(deck.steps))
    )
    link.write(step=at + 1)
    return deck.steps[at]


def _go(step: int) -> None:
    st.session_state.deck_step = step


def draw_text(step: Step, words: Words) -> None:
    """Title, text, figures with when and where they were recorded, and the speaker's notes."""
    st.header(plain(step.title))
    for paragraph in step.text:
        st.markdown(plain(paragraph))
    places = st.container(horizontal=True, gap="medium")
    for figure in step.figures:
        place = places.container(border=True, width=260, height="stretch", gap="small")
        place.metric(plain(figure.label), plain(figure.value))
        if figure.spread:
            place.markdown(plain(figure.spread))
        place.badge(words("present.recorded"), color="gray")
        place.caption(plain(figure.recorded))
        place.caption(plain(figure.source))
    if step.notes:
        with st.expander(words("present.notes")):
            for paragraph in step.notes:
                st.markdown(plain(paragraph))


def draw_view(deck: Deck, view: DeckView, words: Words) -> None:
    """The map of a step; another step begins where its presentation says."""
    trace, state = view.recording.trace, st.session_state
    here = (deck.title, state.deck_step)
    if "looked" not in state and "layer" in st.query_params:
        state.looked = here  # a link may lead to another pair than the one the step begins at
    if state.get("looked") != here:
        look_at(view)
        state.looked = here
    st.info(
        words(
            "present.ran",
            model=plain(trace.model.name),
            policy=plain(str(trace.policy or words("measured.policy_dense"))),
            time=f"{view.recording.recorded:%Y-%m-%d %H:%M} UTC",
        )
    )
    if not trace.model.trained:
        st.error(words("untrained.banner", model=plain(trace.model.name)))
    explore, gate_map = st.columns(2)
    for column, page in ((explore, "explore"), (gate_map, "gate_map")):
        if column.button(words(f"present.open_{page}"), key=f"open_{page}", width="stretch"):
            keep(view.recording)
            records.show(view.recording.id)
            look_at(view)
            st.switch_page(f"views/{page}.py")
    state.presented = view.recording
    result = session.recorded_result(trace, view.recording.id)
    crossed_out(result, words, view.layer)
    maps(result, words)


def look_at(view: DeckView) -> None:
    """Moves the cursor of all maps to where a step begins."""
    start = dict(zip(CURSOR, (view.layer, view.head, view.query, view.key), strict=True))
    for name, value in start.items():
        st.session_state[name] = value
    st.session_state.cursor = start
    forget_frame()
    bump()


def keep(recording: Recording) -> None:
    """A trace of a presentation enters the store, so that its link opens it on any page."""
    if recording.id not in records.store().ids():
        records.store().add(recording.trace, run=recording.id, tags=["presentation"])


def download(deck: Deck, words: Words) -> None:
    st.download_button(
        words("present.download"),
        data=lambda: deck_html(deck),
        file_name="saa-presentation.html",
        mime="text/html",
        on_click="ignore",
        key="deck_download",
        help=words("present.download_help"),
    )
