"""The sidebar: language, and what of model, policy and files a page uses, as one choice that it reads."""

from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import saa_core as saa
from app import text
from app.components.shared.message import failure
from app.components.sidebar.policy import OF_MODEL, policy_choice
from app.live.background import BACKGROUND, is_here
from app.live.models import MODELS
from app.service import Client
from app.state import address as link
from app.state import records
from app.state.session import Choice
from app.state.uploads import open_policy
from app.text import Words
from saa_core.data.titles import FIRST

LENGTHS = (512, 1024, 2048, 4096, 8192)
"""At which the default of a model is shown."""

START = {"en": FIRST, "ja": "e5"}
"""Model that a visit begins with, by language."""
KEPT = ("text", "model", "kernel", "granularity", "custom", "gates", *(set(OF_MODEL) - {"forces"}))
"""Widgets whose values outlive a page that does not draw them."""
LOOK = 1.0
"""Seconds between two looks at whether a model has been loaded."""
STEPS = ("downloading", "converting")
"""First words of what fetching a model reports."""


@dataclass(frozen=True)
class Needs:
    """What a page uses of the sidebar.

    Args:
        model: model and policy.
        recording: a recorded run may be opened in the model's place.
        patient: nothing needs the model until a text is to be run.
        on_request: model and policy once a visitor has asked for them (:func:`request`).
    """

    model: bool = False
    recording: bool = False
    patient: bool = False
    on_request: bool = False


def sidebar(client: Client, needs: Needs, words: Words) -> Choice:
    """Draws it. A stored trace that is open needs neither model nor policy."""
    st.radio(
        words("sidebar.language"),
        list(text.LANGUAGES),
        format_func=text.LANGUAGES.get,
        key="lang",
        horizontal=True,
        on_change=_remember_language,
    )
    state = st.session_state
    for key in KEPT:
        if key in state:
            state[key] = state[key]
    if not (needs.model or (needs.on_request and state.get("requested"))):
        return Choice(state.model, None, saa.Policy(), stored=state.get("stored"))
    stored = state.get("stored")
    if stored is None:
        return _live(client, needs, words)
    st.caption(words("sidebar.replay"))
    st.button(words("sidebar.live"), on_click=records.close, key="live", width="stretch")
    return Choice(MODELS[0], None, saa.Policy(), stored=stored)


def request() -> None:
    """A visitor needs model and policy on a page that does without until then."""
    st.session_state["requested"] = True


def begin() -> None:
    """A visit that has asked for nothing begins with the model of its language."""
    state = st.session_state
    if "model" not in state:
        state.model = FIRST if asked_for_something() else START[state.lang]


def asked_for_something() -> bool:
    """Whether there is a run to show or to make."""
    state = st.session_state
    keys = ("shown", "pending", "stored", "recording")
    return any(state.get(key) is not None and state.get(key) is not False for key in keys)


def _remember_language() -> None:
    state = st.session_state
    link.write(lang=state.lang)
    if state.get("model") == START[state.spoken] and not asked_for_something():
        state.model = START[state.lang]


def by_length(model: saa.Model) -> tuple[tuple[int, float], ...]:
    """What the model's default aims at, by length of a text in tokens."""
    lengths = [length for length in LENGTHS if length <= model.max_length] or [model.max_length]
    return tuple((length, model.resolve(model.spec.policy, length).aim) for length in lengths)


def _live(client: Client, needs: Needs, words: Words) -> Choice:
    """Model, policy and an uploaded file, as the widgets say."""
    name, listed = _name(client, words)
    if needs.patient and not asked_for_something() and _waits(name, client, words):
        return Choice(name, None, saa.Policy())
    model = _model(name, listed, client, words)
    policy = policy_choice(
        name,
        model.spec.policy if model else saa.Policy(),
        model.task.shares if model and model.task else None,
        words,
        causal=model is not None and model.causal,
        by_length=() if model is None else by_length(model),
    )
    promise = None
    if model is not None:
        policy, promise = _policy_from_file(name, model, policy, words)
    recording = None
    if needs.recording:
        recording = st.file_uploader(
            words("sidebar.open"), type="saa", key="recording", help=words("sidebar.open_help")
        )
    return Choice(name, model, policy, recording, promise=promise)


def _name(client: Client, words: Words) -> tuple[str, str | None]:
    """The chosen model by its name, and by the name that it has in the list, if it is listed."""
    listed = st.selectbox(words("sidebar.model"), MODELS, key="model")
    custom, gates = (st.session_state.get(key, "").strip() for key in ("custom", "gates"))
    return client.registry.identify(custom or listed, gates), None if custom else listed


def _waits(name: str, client: Client, words: Words) -> bool:
    """Whether the page goes on without a model that is not loaded yet; says why."""
    if not BACKGROUND.active or name in client.registry.loaded:
        return False
    if BACKGROUND.start(name):
        _until_loaded(name, client, words)
        return True
    if is_here(name) or name not in MODELS:
        return False
    st.caption(words("load.not_here"))
    return True


@st.fragment(run_every=LOOK)
def _until_loaded(name: str, client: Client, words: Words) -> None:
    """A line that makes place for the settings as soon as the model is there."""
    if name in client.registry.loaded or not BACKGROUND.busy(name):
        st.rerun()
    st.caption(words("load.background"))


def _model(name: str, listed: str | None, client: Client, words: Words) -> saa.Model | None:
    """The chosen model, loaded, and what its gate is worth; None if it could not be loaded."""
    bar = st.empty()
    try:
        with st.spinner(words("load.starting")):
            model = client.model(name, lambda *step: _show_step(bar, words, *step))
    except Exception as error:
        failure(error, words, model=name)
        return None
    finally:
        bar.empty()
    if listed in ("smollm2", FIRST):
        st.caption(words("sidebar.frozen" if model.spec.adapter is None else "sidebar.joint"))
    st.caption(words("sidebar.gate"))
    if model.spec.trained:
        st.badge(words("sidebar.trained", gate=text.plain(model.spec.gate)), color="green")
    else:
        st.badge(words("sidebar.untrained"), color="red")
    if model.spec.prefix:
        st.caption(words("sidebar.prefix", prefix=text.plain(model.spec.prefix.strip())))
    return model


def _show_step(bar: DeltaGenerator, words: Words, what: str, done: int, total: int) -> None:
    """What is downloaded or converted because the model is not on this machine yet, and how far it is."""
    step, _, name = what.partition(" ")
    if step in STEPS:
        share = min(done / max(total, 1), 1.0)
        shown = words(f"load.{step}", name=text.plain(name), share=words.percent(share))
        bar.progress(share, text=shown)


def _policy_from_file(
    name: str, model: saa.Model, sliders: saa.Policy, words: Words
) -> tuple[saa.Policy, saa.Certificate | None]:
    """The policy of an uploaded file and what it promises; what the sliders say without one."""
    file = st.file_uploader(
        words("sidebar.policy_file"),
        type="json",
        key="policy_file",
        help=words("sidebar.policy_file_help"),
    )
    if file is None:
        return sliders, None
    try:
        stored = open_policy(file.getvalue(), name, model)
    except saa.PolicyError as error:
        failure(error, words)
        return sliders, None
    if stored.policy is None:
        st.info(words("sidebar.policy_dense"))
        return sliders, None
    st.info(words("sidebar.policy_used", policy=text.plain(str(stored.policy))))
    if stored.promise is not None:
        sla = stored.promise.sla
        promised = {
            "limit": words.percent(sla.limit, 1),
            "delta": words.percent(sla.delta),
            "texts": stored.promise.texts,
        }
        st.caption(words(f"promise.{sla.quantity}", **promised))
    return stored.policy, stored.promise
