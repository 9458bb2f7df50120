"""What is compared: the cards of side A and side B, starting points, and the run with progress.

Everything that is chosen lies in the address: side A as on the other pages, side B as ``b_...``.
"""

import contextlib
from dataclasses import replace

import streamlit as st

from app.components.shared.message import failure, report_on
from app.components.sidebar.choice import by_length
from app.components.sidebar.policy import aim_choice
from app.live import spill
from app.live.models import MODELS
from app.live.values import Compared, Side
from app.service import Client
from app.state import address as link
from app.state import session
from app.state.examples import gallery, texts
from app.text import Words, plain
from saa_core import Model, Policy
from saa_core.data.titles import FIRST

FORM = (
    "a_text",
    "b_own",
    "b_text",
    "b_model",
    "b_how",
    "b_rule",
    "b_mass",
    "b_budget",
    "b_tokens",
    "b_gates",
)
SAME = "same"
STARTS = ("dense", "share", "edit", "joint", "task")
SHARES = tuple(round(0.05 * step, 2) for step in range(10, 21))


def sides(choice: session.Choice, client: Client, words: Words) -> tuple[Side, Side] | None:
    """Draws both cards; None while a model cannot be loaded."""
    state = st.session_state
    _restore(choice)
    fresh = "compared" not in state and not state.get("compare_pending")
    with st.expander(words("compare.starts"), expanded=fresh):
        row = st.container(horizontal=True, gap="small")
        for name in STARTS:
            card = row.container(border=True, width=205, height="stretch", gap="small")
            card.button(
                words(f"compare.start_{name}"),
                on_click=_start,
                args=(name, words),
                key=f"start-{name}",
                width="stretch",
            )
            card.caption(words(f"compare.start_{name}_about"))
    left, right = (column.container(border=True, height="stretch") for column in st.columns(2))
    with left:
        st.markdown(f"**{words('compare.a')}**")
        st.caption(
            words("compare.a_is", model=plain(choice.name), policy=plain(str(choice.policy)))
        )
        st.text_area(words("compare.a_text"), key="a_text", height=160)
    with right:
        st.markdown(f"**{words('compare.b')}**")
        model, policy = _side_b(choice, client, words)
    state.form = {name: state[name] for name in FORM if name in state}
    if choice.model is None or model is None:
        return None
    second = state.b_text if state.b_own else state.a_text
    name = choice.name if state.b_model == SAME else state.b_model
    if state.b_gates.strip():
        name = client.registry.identify(name, state.b_gates.strip())
    return (
        Side(choice.name, state.a_text, choice.policy),
        Side(name, second, policy),
    )


def _side_b(
    choice: session.Choice, client: Client, words: Words
) -> tuple[Model | None, Policy | None]:
    state = st.session_state
    st.selectbox(
        words("sidebar.model"),
        (SAME, *MODELS),
        format_func=lambda name: words("compare.same_model") if name == SAME else name,
        key="b_model",
    )
    how = st.segmented_control(
        words("compare.how"),
        ("saa", "dense"),
        required=True,
        format_func=lambda name: words(f"compare.how_{name}"),
        key="b_how",
    )
    name = choice.name if state.b_model == SAME else state.b_model
    model = None
    with st.expander(words("sidebar.gates")):
        gates = st.text_input(
            words("sidebar.gates"), key="b_gates", help=words("sidebar.gates_help")
        )
    try:
        with st.spinner(words("load.starting")):
            model = client.model(client.registry.identify(name, gates.strip()))
    except Exception as error:
        failure(error, words, model=name)
    policy = None
    if model is not None and how == "saa":
        default = model.spec.policy
        rule = state.b_rule or default.rule_name
        policy = aim_choice(default, rule, f"b_{rule}", words, by_length(model))
        if model.task is not None:
            tokens = st.select_slider(
                words("sidebar.tokens"), SHARES, format_func=words.percent, key="b_tokens"
            )
            policy = replace(policy, tokens=None if tokens == 1 else tokens)
    if st.toggle(words("compare.own_text"), key="b_own", on_change=_copy):
        st.text_area(words("compare.b_text"), key="b_text", height=160)
    return model, policy


def _copy() -> None:
    """The second text begins as the first: change words in it."""
    state = st.session_state
    if state.b_own and not state.get("b_text", "").strip():
        state.b_text = state.get("a_text", "")


def _restore(choice: session.Choice) -> None:
    """The form as it was left, also after another page was shown; else as the address says."""
    state = st.session_state
    shown = state.get("shown")
    start = {
        "a_text": shown.text if shown is not None else state.get("text", ""),
        "b_own": False,
        "b_text": "",
        "b_model": SAME,
        "b_how": "dense",
        "b_rule": "",
        "b_tokens": 0.5,
        "b_gates": "",
    }
    asked = _from_address() if "form" not in state or link.went_back() else {}
    if link.went_back() and asked:
        asked = {"a_text": state.get("text", ""), "b_own": False, "b_model": SAME} | asked
    if asked and str(start["a_text"]).strip():
        state.compare_pending = True
    for name, value in (start | state.get("form", {}) | asked).items():
        if name not in state or name in asked:
            state[name] = value


def _from_address() -> dict[str, object]:
    """Side B of the address; what cannot be used is ignored."""
    address, found = st.query_params, dict[str, object]()
    if address.get("b_how") in ("saa", "dense"):
        found["b_how"] = address["b_how"]
    if address.get("b_model") in MODELS:
        found["b_model"] = address["b_model"]
    for rule in link.AIMS:
        if (aim := link.read_aim(rule, "b_")) is not None:
            found |= {f"b_{rule}": aim, "b_rule": rule}
    with contextlib.suppress(ValueError):
        share = round(float(address.get("b_tokens", "")), 2)
        if share in SHARES:
            found["b_tokens"] = share
    if address.get("b_text", "").strip():
        found |= {"b_own": True, "b_text": address["b_text"]}
    return found


def _start(name: str, words: Words) -> None:
    """Fills both cards with a starting point and runs it."""
    state = st.session_state
    model = {"task": "minilm + sentences", "joint": "smollm2"}.get(name, MODELS[0])
    example = next(iter(gallery(model)))
    if name in ("edit", "task") or not state.get("a_text", "").strip():
        state.a_text = words("compare.edit_a") if name == "edit" else example.text
    changes: dict[str, object] = {
        "dense": {"b_how": "dense"},
        "share": {"b_how": "saa", "b_rule": "mass", "b_mass": 0.8},
        "edit": {
            "b_how": "saa",
            "b_rule": "mass",
            "b_text": words("compare.edit_b"),
        },
        "joint": {
            "b_how": "saa",
            "b_rule": "mass",
            "b_model": FIRST,
        },
        "task": {"b_how": "dense"},
    }[name]
    state.pop("b_mass", None)  # at the model's default
    for key, value in ({"b_model": SAME, "b_gates": ""} | changes).items():
        state[key] = value
    state.b_own = name == "edit"
    if state.get("model") != model:
        state.model = model
    state.compare_pending = True


def outcome(sides: tuple[Side, Side] | None, client: Client, words: Words) -> Compared | None:
    """The button, the run, and what is to be shown; None if there is nothing yet."""
    state = st.session_state
    if st.button(words("compare.run"), type="primary", key="compare", disabled=sides is None):
        state.compare_pending = True
    compared: Compared | None = state.get("compared")
    if link.went_back() and compared is not None and compared.sides == sides:
        state.compare_pending = False  # one step back led to what is shown
    if state.get("compare_pending") and sides is not None:
        bar = st.progress(0.0)
        try:
            compared = client.compare(
                sides,
                report_on(bar, words),
                session.sides(),
            )
            compared = state.compared = spill.bounded(compared)
            session.sides()  # what was just added counts too
        except Exception as error:
            state.pop("compared", None)
            state.compare_pending = False
            bar.empty()
            failure(error, words, model=sides[1].model, text=sides[1].text)
            return None
        bar.empty()
        state.compare_pending = False
    if compared is None:
        st.info(words("compare.nothing"))
        return None
    if compared.sides != sides:
        st.warning(words("compare.stale"))
    _write(compared.sides, words)
    return compared


def _write(sides: tuple[Side, Side], words: Words) -> None:
    first, second = sides
    known = link.write_text(first.text, texts())
    assert first.policy is not None
    other = second.text if second.text != first.text else None
    short = other is None or len(other.encode("utf-8", "replace")) <= link.LONGEST_TEXT
    policy = second.policy
    listed = second.model in MODELS and second.model != first.model
    link.write(
        lang=words.lang,
        **link.aim_values(first.policy),
        tokens=None if first.policy.tokens is None else f"{first.policy.tokens:.2f}",
        model=first.model if first.model in MODELS else None,
        force=link.forces_text(first.policy.force),
        b_how="dense" if policy is None else "saa",
        **link.aim_values(policy, "b_"),
        b_tokens=None if policy is None or policy.tokens is None else f"{policy.tokens:.2f}",
        b_model=second.model if listed else None,
        b_text=other if short else None,
    )
    if not (known and short):
        st.caption(words("explore.no_link"))
