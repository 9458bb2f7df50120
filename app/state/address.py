"""What of the page lies in its address, so that a link, a reload or the browser's back button shows
the same again.

A text lies in the address by the name of its example, or in
full where it is short; a trace of the store by its id. Only a model from the list is taken from an
address.
"""

import contextlib
import re

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from saa_core import Force, Policy, PolicyError
from saa_core.store.ids import is_id

LONGEST_TEXT = 1500
"""Bytes of a text that may stand in an address."""
LETTERS = {"L": "layer", "H": "head", "Q": "query", "K": "key"}
MOST_FORCES = 50
AIMS = {"mass": (0.5, 1.0), "budget": (0.01, 1.0)}
"""What a rule can aim at on the page: lowest and highest."""
PLACES = ("audit", "slice", "against")
"""Where on the Dataset page; what does not exist is ignored there."""
WHOLE = ("layer", "head", "q", "k", "window")


def read(models: tuple[str, ...], examples: dict[str, str], languages: tuple[str, ...]) -> None:
    """Fills session state from the address, once per visit and when the visitor has gone back or on
    in the browser's history; what cannot be used is ignored."""
    state, address = st.session_state, st.query_params
    if "lang" not in state:  # a first visit, or a change of pages by a button, which drops it
        browser = (st.context.locale or "en")[:2]
        lang = state.get("spoken", address.get("lang", browser))
        state["lang"] = lang if lang in languages else "en"
    if went_back() and address.get("lang") in languages:
        state["lang"] = address["lang"]
    state["spoken"] = state["lang"]
    if "visited" in state and not went_back():
        return
    state["visited"] = True
    state.pop("policy_of", None)  # the address's settings are of the address's model
    text = examples.get(address.get("example", "")) or address.get("text", "")
    if is_id(address.get("trace")):
        state["stored"] = address["trace"]
    elif text:
        state.pop("stored", None)
    for name in PLACES:
        if is_id(address.get(name)):
            state[name] = address[name]
    if address.get("model") in models:
        state["model"] = address["model"]
    for name in WHOLE:
        value = address.get(name, "")
        if value.isascii() and value.isdigit() and len(value) < 7:
            state[name] = int(value)
    for rule in AIMS:
        if (aim := read_aim(rule)) is not None:
            state[rule], state["rule"] = aim, rule
    for name in ("tokens", "guard", "margin"):
        with contextlib.suppress(ValueError):  # then the page begins with the default
            state[name] = round(float(address.get(name, "")), 2)
    state["forces"] = forces(address.get("force", ""))
    if "stored" not in state and text.strip() and len(text.encode("utf-8", "replace")) <= 200_000:
        state["text"] = text
        state["pending"] = True


def read_aim(rule: str, prefix: str = "") -> float | None:
    """What a rule aims at by the address; None where it says nothing that can be used."""
    low, high = AIMS[rule]
    try:
        aim = round(float(st.query_params.get(prefix + rule, "")), 2)
    except ValueError:
        return None
    return aim if low <= aim <= high else None


def aim_values(policy: Policy | None, prefix: str = "") -> dict[str, str | None]:
    """Rule and aim of a policy as they stand in the address, under the name of the rule; the other
    rule's is taken out, and both where the aim is left to the model's default."""
    values: dict[str, str | None] = {prefix + rule: None for rule in AIMS}
    if policy is not None and policy.aims:  # else it is the model's default
        values[prefix + policy.rule_name] = f"{policy.aim:.2f}"
    return values


def went_back() -> bool:
    """Whether this run of the page was asked for by the browser's back or forward button."""
    run = get_script_run_ctx()
    return run is not None and getattr(run, "is_history_navigation", False)


def forces_text(entries: tuple[Force, ...]) -> str | None:
    """What a person forced as it stands in the address: "+L3.H1.Q5.K2,-K7-9"; None for nothing."""

    def one(entry: Force) -> str:
        parts = []
        for letter, name in LETTERS.items():
            value = getattr(entry, name)
            if value is not None:
                shown = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
                parts.append(letter + shown)
        return ("+" if entry.keep else "-") + ".".join(parts)

    return ",".join(map(one, entries)) or None


def forces(written: str) -> tuple[Force, ...]:
    """What :func:`forces_text` wrote; entries that make no sense are ignored."""
    found = []
    for part in written.split(",")[:MOST_FORCES]:
        # A plus sign in an address may arrive as a space.
        match = re.fullmatch(r"([+ -])((?:[LH]\d{1,6}|[QK]\d{1,6}(?:-\d{1,6})?|\.)*)", part)
        if match is None:
            continue
        fields: dict[str, object] = {}
        for piece in filter(None, match[2].split(".")):
            first, _, last = piece[1:].partition("-")
            fields[LETTERS[piece[0]]] = (int(first), int(last)) if last else int(first)
        with contextlib.suppress(PolicyError):
            found.append(Force(keep=match[1] != "-", **fields))  # type: ignore[arg-type]
    return tuple(found)


def write_text(text: str, examples: dict[str, str]) -> bool:
    """Puts the text that was run into the address, by name or in full; False if it is too long."""
    known = next((name for name, content in examples.items() if content == text), None)
    short = len(text.encode("utf-8", "replace")) <= LONGEST_TEXT
    write(example=known, text=text if known is None and short else None)
    return known is not None or short


def write(**values: object) -> None:
    """Puts values into the address; None takes one out.

    A run of the whole page does it once, at its end (:func:`commit`), and a part that is drawn again
    at once: each change of the address is a step of the browser's back button.
    """
    st.session_state.setdefault("unwritten", {}).update(values)
    run = get_script_run_ctx()
    if run is not None and run.fragment_ids_this_run:
        commit()


def commit() -> None:
    """Changes the address to what was written since the last time."""
    before = st.query_params.to_dict()
    after = before | st.session_state.pop("unwritten", {})
    # Sorted: the browser counts the same values in another order as a new step.
    after = {name: str(after[name]) for name in sorted(after) if after[name] is not None}
    if after != before:
        st.query_params.from_dict(after)
