"""Where a view of a page comes from: run, model, policy, execution, versions, as JSON values."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from saa_core import Timing, Trace
from saa_core.trace.record import versions


def about_trace(trace: Trace, run: str | None = None) -> dict[str, Any]:
    """Where a view of one run comes from.

    Args:
        run: its id in the store; None where it was not kept.
    """
    execution = dataclasses.asdict(trace.execution)
    return {
        "run": run,
        "model": trace.model.name,
        "gate": trace.model.gate,
        "gate_trained": trace.model.trained,
        "policy": "dense" if trace.policy is None else str(trace.policy),
        "decided_in_blocks_of": list(trace.block),
        "tokens": trace.keys,
        "text": trace.text,
        "execution": execution,
        "versions": dict(trace.versions),
    }


def about_pair(first: Trace, second: Trace) -> dict[str, Any]:
    """Where a view of two runs comes from."""
    a, b = about_trace(first), about_trace(second)
    both = ", ".join(
        f"{side}: {each['model']}, {each['policy']}" for side, each in (("A", a), ("B", b))
    )
    return {"model": both, "a": a, "b": b}


def about_timings(timings: Sequence[Timing]) -> dict[str, Any]:
    """Where a view of measured times comes from: machine, policy, and every sample in ms."""
    first, sparse = timings[0], timings[1]
    return {
        "policy": sparse.name.removeprefix("saa "),
        "device": first.device,
        "dtype": first.dtype,
        "threads": first.threads,
        "timings": [dataclasses.asdict(timing) for timing in timings],
        "versions": dict(first.versions),
    }


def about_here(**fields: Any) -> dict[str, Any]:
    """Where a view that is of no single run comes from, with the versions that show it."""
    return fields | {"versions": _versions()}


@functools.cache
def _versions() -> dict[str, str]:
    return dict(versions())
