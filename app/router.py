"""Router and sidebar: builds the choice (model, policy) that every page reads from session state.

Knows pages and settings; knows nothing of texts, traces or charts.
"""

from dataclasses import replace
from pathlib import Path

import streamlit as st

import saa_core as saa
from app import text
from app.components.shared import guarding
from app.components.shared.message import failure
from app.components.shared.outcome import ask
from app.state import address as link
from app.state import examples, records, session
from app.state.ending import PageEnd

ROOT = Path(__file__).parent.parent
LOWEST_MASS, HIGHEST_MASS = 0.5, 1.0

link.read(session.MODELS, examples.texts(), tuple(text.LANGUAGES))
words = text.load(st.session_state.lang)
st.set_page_config(page_title="SAA", page_icon=str(ROOT / "assets" / "icon.svg"), layout="wide")
if st.context.theme.type == "dark":
    st.html(ROOT / "app" / "components" / "shared" / "dark.css")
page = st.navigation(
    [
        st.Page("views/explore.py", title=words("page.explore"), default=True),
        st.Page("views/gate_map.py", title=words("page.gate_map"), url_path="gate_map"),
        st.Page("views/compare.py", title=words("page.compare"), url_path="compare"),
        st.Page("views/latency.py", title=words("page.latency"), url_path="latency"),
        st.Page("views/trust.py", title=words("page.trust"), url_path="trust"),
        st.Page("views/cost.py", title=words("page.cost"), url_path="cost"),
        st.Page("views/traces.py", title=words("page.traces"), url_path="traces"),
        st.Page("views/dataset.py", title=words("page.dataset"), url_path="dataset"),
        st.Page("views/present.py", title=words("page.present"), url_path="present"),
    ]
)
st.logo(str(ROOT / "assets" / "logo.svg"), size="large")
client = session.Client()


def remember_language() -> None:
    link.write(lang=st.session_state.lang)


def model_and_gate() -> tuple[str, saa.Model | None]:
    """The chosen model, loaded, and what its gate is worth; None if it could not be loaded."""
    listed = st.selectbox(words("sidebar.model"), session.MODELS, key="model")
    custom, gates = (st.session_state.get(key, "").strip() for key in ("custom", "gates"))
    name = session.identify(custom or listed, gates)
    try:
        with st.spinner(words("load.starting")):
            model = client.model(name)
    except Exception as error:
        failure(error, words, model=name)
        return name, None
    st.caption(words("sidebar.gate"))
    if model.spec.trained:
        st.badge(words("sidebar.trained", gate=text.plain(model.spec.gate)), color="green")
    else:
        st.badge(words("sidebar.untrained"), color="red")
    return name, model


def policy_for(name: str, default: saa.Policy, shares: tuple[float, float] | None) -> saa.Policy:
    """What the sliders say; another model starts at its own defaults."""
    state = st.session_state
    if state.get("policy_of", name) != name:
        for key in ("mass", "tokens", "forces", "guard", "margin"):
            state.pop(key, None)
    state.policy_of = name
    tokens = default.tokens if shares is None else tokens_for(default.tokens or 1.0, shares)
    state.setdefault("mass", round(default.mass, 2))
    mass = st.slider(
        words("sidebar.mass"),
        LOWEST_MASS,
        HIGHEST_MASS,
        step=0.01,
        format="%.2f",
        key="mass",
        help=words("sidebar.mass_help"),
    )
    st.caption(words("sidebar.default_mass", mass=default.mass))
    with st.expander(words("sidebar.advanced")):
        kernel = st.selectbox(
            words("sidebar.kernel"),
            ("auto", "native", "flex", "gather", "reference"),
            format_func=lambda name: words(f"choice.{name}"),
            key="kernel",
            help=words("sidebar.kernel_help"),
        )
        granularity = st.selectbox(
            words("sidebar.granularity"),
            ("auto", "pair", "block"),
            format_func=lambda name: words(f"choice.{name}"),
            key="granularity",
            help=words("sidebar.granularity_help"),
        )
        st.text_input(words("sidebar.custom"), key="custom", help=words("sidebar.custom_help"))
        st.text_input(words("sidebar.gates"), key="gates", help=words("sidebar.gates_help"))
    if mass == round(default.mass, 2):
        mass = default.mass
    forces = state.get("forces", ()) if tokens is None else ()
    if forces:
        st.warning(words("force.active", count=len(forces)))
        st.button(words("force.clear"), on_click=_clear, key="force_clear", width="stretch")
    return replace(
        default,
        mass=mass,
        kernel=kernel,
        granularity=granularity,
        tokens=tokens,
        force=forces,
        guard=guarding.guard_choice(default.guard, shares is not None, forces, words),
    )


def _clear() -> None:
    """Takes back every person's word, and runs again what was run with it."""
    st.session_state.forces = ()
    if (shown := st.session_state.get("shown")) is not None:
        ask(shown.text)


def tokens_for(default: float, shares: tuple[float, float]) -> float | None:
    """The share of the token work; None, which drops nothing, at 1."""
    state = st.session_state
    low, high = shares
    steps = [round(low + 0.05 * i, 2) for i in range(round((high - low) / 0.05) + 1)] + [1.0]
    if state.get("tokens") not in steps:
        state.tokens = min(steps, key=lambda step: abs(step - default))
    share: float = st.select_slider(
        words("sidebar.tokens"),
        steps,
        format_func=words.percent,
        key="tokens",
        help=words("sidebar.tokens_help"),
    )
    st.caption(words("sidebar.default_tokens", share=words.percent(default)))
    return None if share == 1 else share


def policy_from_file(
    name: str, model: saa.Model, sliders: saa.Policy
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
        stored = session.open_policy(file.getvalue(), name, model)
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


def live_choice() -> session.Choice:
    """Model, policy and an uploaded file, as the sidebar's widgets say."""
    name, model = model_and_gate()
    policy = policy_for(
        name,
        model.spec.policy if model else saa.Policy(),
        model.task.shares if model and model.task else None,
    )
    promise = None
    if model is not None:
        policy, promise = policy_from_file(name, model, policy)
    recording = st.file_uploader(
        words("sidebar.open"), type="saa", key="recording", help=words("sidebar.open_help")
    )
    return session.Choice(name, model, policy, recording, promise=promise)


with st.sidebar:
    st.radio(
        words("sidebar.language"),
        list(text.LANGUAGES),
        format_func=text.LANGUAGES.get,
        key="lang",
        horizontal=True,
        on_change=remember_language,
    )
    stored = st.session_state.get("stored")
    if stored is None:
        choice = live_choice()
    else:
        st.caption(words("sidebar.replay"))
        st.button(words("sidebar.live"), on_click=records.close, key="live", width="stretch")
        choice = session.Choice(session.MODELS[0], None, saa.Policy(), stored=stored)
    progress = st.empty()

st.session_state.choice = choice
try:
    page.run()
except PageEnd:
    pass
except Exception as error:
    failure(error, words)
link.commit()

if choice.model is not None:
    for step in client.cold(choice.name):
        with progress, st.spinner(words(f"load.warm_{step}")):
            client.warm_up(choice.name, step)
