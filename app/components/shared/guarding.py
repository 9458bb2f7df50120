"""The guard of every run: what is set in the sidebar, and what it did in a run, in one line."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.text import Words
from saa_core import Force, Guard, Trace

LIMITS = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Missed mass that can be set as a limit; 0 is no guard."""
MARGINS = tuple(round(0.1 * step, 1) for step in range(10))
"""Distances of the two most probable labels that can be set; 0 never asks the reference model."""


def guard_choice(
    default: Guard | None, classifies: bool, forces: Sequence[Force], words: Words
) -> Guard | None:
    """What checks each run: a label by its margin, attention by the exact one of some queries."""
    if classifies:
        margin = _slider("margin", MARGINS, default.margin if default else 0.0, words)
        return Guard(missed_mass=None, margin=margin) if margin else None
    if not all(entry.keep for entry in forces):
        st.caption(words("guard.forced"))
        return None
    limit = _slider("guard", LIMITS, (default.missed_mass or 0.0) if default else 0.0, words)
    return Guard(missed_mass=limit) if limit else None


def _slider(key: str, steps: Sequence[float], default: float, words: Words) -> float:
    state = st.session_state
    if state.get(key) not in steps:
        state[key] = min(steps, key=lambda step: abs(step - default))
    value: float = st.select_slider(
        words(f"guard.{key}"),
        steps,
        format_func=lambda step: words.percent(step) if step else words("guard.off"),
        key=key,
        help=words(f"guard.{key}_help"),
    )
    return value


def note(trace: Trace, words: Words) -> None:
    """One line on what the guard found and did in this run; nothing where there was none."""
    events = {event["suspected"]: event for event in trace.events}
    if "margin" in events:
        apart, limit = (words.percent(events["margin"][key]) for key in ("measured", "limit"))
        st.info(words("guard.asked", apart=apart, limit=limit))
    elif "bound" in events:
        st.info(words("guard.densely", limit=words.percent(events["result"]["limit"])))
    elif "result" in events:
        result, count = events["result"], len(corrections(trace.events))
        said = words(
            "guard.checked" if count else "guard.untouched",
            bound=words.percent(result["bound"], 1),
            limit=words.percent(result["limit"]),
            queries=f"{result['queries']:,}",
            count=count,
        )
        st.info(said)
        if "input" in events:
            far = events["input"]
            distance = far["measured"] or math.inf
            st.caption(words("guard.far", distance=distance, limit=far["limit"]))
        st.page_link("views/trust.py", label=words("guard.to_trust"), icon=":material/shield:")


def find_noticed(events: tuple[Mapping[str, Any], ...]) -> list[Mapping[str, Any]]:
    """What the guard suspected; its closing result is no suspicion."""
    return [event for event in events if event["suspected"] != "result"]


def corrections(events: tuple[Mapping[str, Any], ...]) -> list[Mapping[str, Any]]:
    """What the guard changed: a text far from the training is only looked at harder."""
    return [event for event in find_noticed(events) if event["suspected"] != "input"]
