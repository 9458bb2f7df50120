"""The policy as the sidebar's widgets say it; another model starts at its own default."""

from dataclasses import replace

import streamlit as st

from app.components.shared import guarding
from app.components.shared.outcome import ask
from app.state.address import AIMS
from app.text import Words
from saa_core import Policy
from saa_core.types import DEFAULT_MASS, DEFAULT_TAIL, PAIR_LIMIT

START = {"mass": 0.95, "budget": 0.4}
"""Where the slider of a rule begins that is not the default's."""
OF_MODEL = ("rule", *AIMS, "tokens", "forces", "guard", "margin")
"""What is forgotten when another model is chosen."""


def policy_choice(
    name: str,
    default: Policy,
    shares: tuple[float, float] | None,
    words: Words,
    *,
    causal: bool = False,
    by_length: tuple[tuple[int, float], ...] = (),
) -> Policy:
    """Draws the widgets.

    Args:
        name: of the model.
        shares: lowest and highest share of the token work that a task's gates know; None without.
        causal: the model is a language model, in which the end of a prompt is read densely.
        by_length: what the default aims at, by tokens of a text.
    """
    state = st.session_state
    if state.get("policy_of", name) != name:
        for key in OF_MODEL:
            state.pop(key, None)
    state.policy_of = name
    tokens = default.tokens if shares is None else _tokens(default.tokens or 1.0, shares, words)
    if state.get("rule") not in AIMS:
        state.rule = default.rule_name
    policy = aim_choice(default, state.rule, state.rule, words, by_length)
    if len({aim for _, aim in by_length}) > 1:
        listed = " · ".join(f"{length:,}: {aim:.2f}" for length, aim in by_length)
        st.caption(words("sidebar.default_by_length", listed=listed))
    else:
        st.caption(words(f"sidebar.default_{default.rule_name}", aim=typical(default, by_length)))
    if causal and default.tail is None:
        st.caption(words("sidebar.default_tail", tail=DEFAULT_TAIL, limit=PAIR_LIMIT))
    elif default.tail:
        st.caption(words("sidebar.tail", tail=default.tail))
    with st.expander(words("sidebar.advanced")):
        st.selectbox(
            words("sidebar.rule"),
            tuple(AIMS),
            format_func=lambda rule: words(f"sidebar.{rule}"),
            key="rule",
            help=words("sidebar.rule_help"),
        )
        kernel = st.selectbox(
            words("sidebar.kernel"),
            ("auto", "native", "triton", "flex", "gather", "reference"),
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
    forces = state.get("forces", ()) if tokens is None else ()
    if forces:
        st.warning(words("force.active", count=len(forces)))
        st.button(words("force.clear"), on_click=_clear, key="force_clear", width="stretch")
    return replace(
        policy,
        kernel=kernel,
        granularity=granularity,
        tokens=tokens,
        force=forces,
        guard=guarding.guard_choice(default.guard, shares is not None, forces, words),
    )


def typical(default: Policy, by_length: tuple[tuple[int, float], ...]) -> float:
    """What a default aims at; where that follows the length, at about 1,024 tokens."""
    if default.aims:
        return default.aim
    return min(by_length, key=lambda at: abs(at[0] - 1024))[1] if by_length else DEFAULT_MASS


def aim_choice(
    default: Policy,
    rule: str,
    key: str,
    words: Words,
    by_length: tuple[tuple[int, float], ...] = (),
) -> Policy:
    """The default with the aim that a slider says, under one of the two rules; the default itself, which
    may follow the length of the text, until the slider is moved.

    Args:
        by_length: see :func:`policy_choice`.
        key: of the slider; where the session's state holds nothing under it, it begins at the default.
    """
    state, own = st.session_state, rule == default.rule_name
    low, high = AIMS[rule]
    start = round(typical(default, by_length) if own else START[rule], 2)
    state.setdefault(key, min(max(start, low), high))
    aim = st.slider(
        words(f"sidebar.{rule}"),
        low,
        high,
        step=0.01,
        format="%.2f",
        key=key,
        help=words(f"sidebar.{rule}_help"),
    )
    # The slider has two digits, a calibrated default more.
    return default if own and aim == start else default.with_aim(rule, aim)


def _clear() -> None:
    """Takes back every person's word, and runs again what was run with it."""
    st.session_state.forces = ()
    if (shown := st.session_state.get("shown")) is not None:
        ask(shown.text)


def _tokens(default: float, shares: tuple[float, float], words: Words) -> float | None:
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
