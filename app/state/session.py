"""What a visit remembers: the sidebar's choice and what has come out, so that no widget ever computes
it again."""

from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

import saa_core as saa
from app.live import spill
from app.live.values import Request, Result, Side
from app.service import Client
from saa_core.explain.pair import LayerInputs

RESULTS_KEPT = 6


@dataclass(frozen=True, eq=False)
class Choice:
    """What the sidebar says: model (None if it could not be loaded, or is not needed), policy, an
    opened file, the id of an opened trace of the store, what a policy file promises."""

    name: str
    model: saa.Model | None
    policy: saa.Policy
    recording: Any = None
    stored: str | None = None
    promise: saa.Certificate | None = None


def remember(result: Result) -> None:
    """Keeps a result for this visitor."""
    results = st.session_state.setdefault("results", {})
    results[result.request] = result
    forget_oldest(results)


def recall(request: Request) -> Result | None:
    found: Result | None = st.session_state.get("results", {}).get(request)
    return found


def without_forces(result: Result) -> Result | None:
    """The same run by the gate alone, if this visitor has seen it."""
    if result.request is None:
        return None
    return recall(replace(result.request, policy=replace(result.request.policy, force=())))


def sides() -> dict[Side, saa.Trace]:
    """The runs that this visitor has compared last."""
    kept: dict[Side, saa.Trace] = st.session_state.setdefault("sides", {})
    forget_oldest(kept)
    return kept


def inputs(client: Client, result: Result, layer: int) -> LayerInputs:
    """Queries and keys of a layer of the visitor's current text, kept until another is asked for."""
    kept: tuple[saa.Trace, int, LayerInputs] | None = st.session_state.get("inputs")
    if kept is None or kept[0] is not result.trace or kept[1] != layer:
        kept = (result.trace, layer, client.inputs(result, layer))
        st.session_state["inputs"] = kept
    return kept[2]


def forget_oldest(kept: dict[Any, Any]) -> None:
    """Leaves the last few entries of what is kept, and not too much of them in memory."""
    spill.bound(kept, RESULTS_KEPT)


def recorded_result(
    trace: saa.Trace, name: str, dense: saa.Trace | None = None, keep_alive: Any = None
) -> Result:
    """A recorded trace as a result, with the recorded dense run of the same text if there is one.

    Embeddings are compared; next tokens are not, since that takes the model.
    """
    times = {timing.name == "dense": timing for timing in trace.timing}
    alike = dense is not None and trace.top_ids is None and dense.hidden is not None
    alike = alike and trace.hidden is not None
    return Result(
        trace=trace,
        dense=dense,
        comparison=saa.compare(dense, trace) if dense is not None and alike else None,
        dense_timing=times.get(True),
        timing=times.get(False),
        recorded_as=name,
        keep_alive=keep_alive,
    )


@st.cache_data(show_spinner=False, max_entries=64)
def count_tokens(_model: saa.Model, name: str, text: str) -> int:
    """Length of a text in tokens of a model; ``name`` stands for the model in the cache."""
    return len(_model.tokenizer(text, verbose=False)["input_ids"])
