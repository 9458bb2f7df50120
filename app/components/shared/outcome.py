"""From what a visitor asked for to a result: a recording that was opened, or a run with progress.

The same for every page that shows a result. What cannot be run ends in a sentence.
"""

from collections.abc import Iterator

import streamlit as st

from app import text
from app.components.shared.message import failure, report_on
from app.live.models import MODELS, TASKS
from app.live.values import Request, Result
from app.service import Client
from app.state import address as link
from app.state import records, session
from app.state.examples import texts
from app.state.uploads import open_trace
from app.text import Words


def outcome(choice: session.Choice, client: Client, words: Words) -> Result | None:
    """The result to show, or None; runs a text that is pending, with progress."""
    if choice.recording is not None:
        return _open_recording(choice, words)
    if choice.stored is not None:
        return _open_stored(choice.stored, words)
    state = st.session_state
    if state.get("pending") and choice.model is not None:
        _run(choice, client, words)
    shown = state.get("shown")
    if state.get("failed") is not None:
        failure(state.failed, words, model=choice.name, text=shown.text)
        if getattr(state.failed, "cut_at", None) is not None:
            cut = shown.text[: state.failed.cut_at]
            st.button(words("error.cut"), type="primary", on_click=ask, args=(cut,), key="cut")
        return None
    if shown is None:
        return None
    # Every time: a visitor who comes from another page has left the address behind.
    state.linked = link.write_text(shown.text, texts())
    link.write(
        lang=words.lang,
        **link.aim_values(shown.policy),
        tokens=_tokens(shown),
        force=link.forces_text(shown.policy.force),
        **_guard(shown),
        model=shown.model if shown.model in MODELS else None,
    )
    return session.recall(shown)


def _tokens(shown: Request) -> str | None:
    """The share of the token work as it stands in the address; of a task it always does."""
    if shown.policy.tokens is not None:
        return f"{shown.policy.tokens:.2f}"
    return "1.00" if shown.model in TASKS else None


def _guard(shown: Request) -> dict[str, str | None]:
    """The guard as it stands in the address; a task's margin always does."""
    guard = shown.policy.guard
    limit = None if guard is None else guard.missed_mass
    task = shown.model in TASKS
    margin = f"{guard.margin if guard else 0:g}"
    return {"guard": None if limit is None else f"{limit:g}", "margin": margin if task else None}


def add_times(result: Result, client: Client, words: Words) -> Iterator[Result]:
    """The result as it is, and again as it gets better, with progress; every one is kept. Nothing of a result
    that is complete: compared everywhere, its rounds done."""
    if result.complete:
        return
    yield result  # at once: it has the times of its own two passes
    bar = st.progress(0.0)
    for timed in client.time(result, report_on(bar, words)):
        session.remember(timed)
        yield timed
    bar.empty()


def ask(content: str | None = None) -> None:
    """A button was pressed: run the text in the box, or this one."""
    records.close()
    if content is not None:
        st.session_state.text = content
    st.session_state.pending = True


def ask_of(model: str, content: str) -> None:
    """A button was pressed: run this text with this model of the list, at its defaults."""
    for key in ("custom", "gates"):
        st.session_state.pop(key, None)
    st.session_state.model = model
    ask(content)


def warn_if_stale(result: Result, choice: session.Choice, words: Words) -> None:
    """Says so where the settings have changed since the run, with a button to run it again."""
    if result.request is None or result.request.policy == choice.policy:
        return
    shown = result.request.policy
    note, again = st.columns([4, 1], vertical_alignment="center")
    note.warning(
        words(
            "explore.stale",
            policy=text.plain(str(shown)),
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


def _open_recording(choice: session.Choice, words: Words) -> Result | None:
    try:
        result = open_trace(choice.recording.name, choice.recording.getvalue())
    except Exception as error:
        failure(error, words)
        return None
    st.info(words("explore.recorded", name=text.plain(choice.recording.name)))
    return result


def _open_stored(run: str, words: Words) -> Result | None:
    """A trace of the store; nothing is computed, and the page says so."""
    try:
        opened = records.open_run(run)
    except Exception as error:
        failure(error, words)
        return None
    link.write(lang=words.lang, trace=run)
    time = f"{opened.recorded:%Y-%m-%d %H:%M} UTC"
    st.info(words("explore.replay", id=text.plain(run), time=time))
    if opened.note:
        st.caption(text.plain(opened.note))
    return opened.result


def _stop(client: Client, request: Request, earlier: Result | None) -> None:
    """Back to what was on the page before."""
    client.stop(request)
    state = st.session_state
    state.pending = False
    if earlier is None:
        state.pop("shown", None)
    else:
        state.shown = earlier.request


def _run(choice: session.Choice, client: Client, words: Words) -> None:
    state = st.session_state
    request = Request(choice.name, state.text, choice.policy)
    earlier, state.shown, state.failed = session.recall(state.get("shown")), request, None
    if session.recall(request) is None:
        bar, end = st.progress(0.0), st.empty()
        end.button(
            words("progress.stop"), on_click=_stop, args=(client, request, earlier), key="stop"
        )
        try:
            session.remember(
                client.run(
                    request,
                    report_on(bar, words),
                    earlier,
                )
            )
        except Exception as error:
            state.failed = error
        bar.empty()
        end.empty()
    # Only now: a run that was interrupted by another click starts again.
    state.pending = False
