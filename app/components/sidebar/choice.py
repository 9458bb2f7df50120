"""The sidebar: language, model, policy and files, as one choice that every page reads."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import saa_core as saa
from app import text
from app.components.shared.message import failure
from app.components.sidebar.policy import policy_choice
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

STEPS = ("downloading", "converting")
"""First words of what fetching a model reports."""


def sidebar(client: Client, words: Words) -> Choice:
    """Draws it. A stored trace that is open needs neither model nor policy."""
    st.radio(
        words("sidebar.language"),
        list(text.LANGUAGES),
        format_func=text.LANGUAGES.get,
        key="lang",
        horizontal=True,
        on_change=_remember_language,
    )
    stored = st.session_state.get("stored")
    if stored is None:
        return _live(client, words)
    st.caption(words("sidebar.replay"))
    st.button(words("sidebar.live"), on_click=records.close, key="live", width="stretch")
    return Choice(MODELS[0], None, saa.Policy(), stored=stored)


def _remember_language() -> None:
    link.write(lang=st.session_state.lang)


def by_length(model: saa.Model) -> tuple[tuple[int, float], ...]:
    """What the model's default aims at, by length of a text in tokens."""
    lengths = [length for length in LENGTHS if length <= model.max_length] or [model.max_length]
    return tuple((length, model.resolve(model.spec.policy, length).aim) for length in lengths)


def _live(client: Client, words: Words) -> Choice:
    """Model, policy and an uploaded file, as the widgets say."""
    name, model = _model(client, words)
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
    recording = st.file_uploader(
        words("sidebar.open"), type="saa", key="recording", help=words("sidebar.open_help")
    )
    return Choice(name, model, policy, recording, promise=promise)


def _model(client: Client, words: Words) -> tuple[str, saa.Model | None]:
    """The chosen model, loaded, and what its gate is worth; None if it could not be loaded."""
    listed = st.selectbox(words("sidebar.model"), MODELS, key="model")
    custom, gates = (st.session_state.get(key, "").strip() for key in ("custom", "gates"))
    name = client.registry.identify(custom or listed, gates)
    bar = st.empty()
    try:
        with st.spinner(words("load.starting")):
            model = client.model(name, lambda *step: _show_step(bar, words, *step))
    except Exception as error:
        failure(error, words, model=name)
        return name, None
    finally:
        bar.empty()
    if custom == "" and listed in ("smollm2", FIRST):
        st.caption(words("sidebar.frozen" if model.spec.adapter is None else "sidebar.joint"))
    st.caption(words("sidebar.gate"))
    if model.spec.trained:
        st.badge(words("sidebar.trained", gate=text.plain(model.spec.gate)), color="green")
    else:
        st.badge(words("sidebar.untrained"), color="red")
    if model.spec.prefix:
        st.caption(words("sidebar.prefix", prefix=text.plain(model.spec.prefix.strip())))
    return name, model


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
