"""Where the time of one run went, layer by layer: gate, rule, kernel, and what lies around the attention.

What is measured is the wall time of each stage of the attention. Between one attention and the next lie the
output projection and the feed-forward part of a layer, and norms and projections of the next: they are told
as one stretch, "rest", because nothing inside them was timed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saa_core.files import dump_json
from saa_core.model import Model
from saa_core.run.execute import execute
from saa_core.trace.record import versions
from saa_core.types import Policy, Progress

STAGES = ("gate", "rule", "guard", "kernel", "dense", "rest")


@dataclass(frozen=True)
class Stretch:
    """Wall time in one stage.

    Args:
        layer: whose attention it is; of a "rest" the layer whose attention came before it, -1 at first.
        stage: one of STAGES.
        start_ms, end_ms: since the pass began.
    """

    layer: int
    stage: str
    start_ms: float
    end_ms: float

    @property
    def ms(self) -> float:
        return self.end_ms - self.start_ms


@dataclass(frozen=True)
class Timeline:
    """One pass of one side.

    Args:
        name: "dense" or "saa".
        kernel: that ran.
        stretches: in order, without gaps.
        total_ms: wall time of the pass.
    """

    name: str
    kernel: str
    stretches: tuple[Stretch, ...]
    total_ms: float

    def by_stage(self) -> dict[str, float]:
        """ms of each stage, over all layers; they sum to the whole."""
        found = dict.fromkeys((each.stage for each in self.stretches), 0.0)
        for each in self.stretches:
            found[each.stage] += each.ms
        return found


def timeline(
    model: Model,
    ids: Sequence[int],
    policy: Policy,
    *,
    progress: Progress | None = None,
) -> tuple[Timeline, Timeline]:
    """One pass of each side over token ids, dense and then under the policy, with nothing recorded. Both should
    have run before: what is compiled or touched for the first time would be in it.

    Args:
        progress: called with (layers that are done, layers) inside each pass.

    Raises:
        PolicyError, TextError: see :func:`saa_core.run.execute.execute`.
    """
    dense = _pass(model, ids, None, progress)
    return dense, _pass(model, ids, policy.decided(), progress)


def _pass(
    model: Model, ids: Sequence[int], policy: Policy | None, progress: Progress | None
) -> Timeline:
    started = time.perf_counter()
    found = execute(model, [ids], policy, clock=True, progress=progress)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    total, calls = time.perf_counter() - started, [found.call]
    if found.rejected is not None:
        calls = [found.rejected, found.call]
    if found.reference is not None:
        calls.append(found.reference.call)
    stretches, last, layer = list[Stretch](), 0.0, -1
    for span in (span for call in calls for span in call.spans):
        start, end = 1000 * (span.start - started), 1000 * (span.end - started)
        if start > last:
            stretches.append(Stretch(layer, "rest", last, start))
        stretches.append(Stretch(span.layer, span.stage, start, end))
        last, layer = end, span.layer
    stretches.append(Stretch(layer, "rest", last, 1000 * total))
    name = "dense" if policy is None else "saa"
    return Timeline(name, calls[0].kernel, tuple(stretches), 1000 * total)


def trace_events(sides: Sequence[Timeline], about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Timelines in the format of Chrome's traces, which Perfetto opens: a process per side, all passes begin at
    zero. Times are in microseconds.

    Args:
        about: what else stands in the file, such as machine and versions; those of this process by default.
    """
    events: list[dict[str, Any]] = []
    for process, side in enumerate(sides, start=1):
        title = f"{side.name}, kernel {side.kernel}"
        events.append(_named("process_name", process, title))
        for each in side.stretches:
            place = "before the first layer" if each.layer < 0 else f"layer {each.layer}"
            events.append(
                {
                    "name": each.stage,
                    "cat": "attention" if each.stage != "rest" else "rest",
                    "ph": "X",
                    "pid": process,
                    "tid": 1,
                    "ts": 1000 * each.start_ms,
                    "dur": 1000 * each.ms,
                    "args": {"layer": each.layer, "where": place},
                }
            )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": about or {**versions(), "threads": torch.get_num_threads()},
    }


def _named(what: str, process: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": 1, "args": {"name": name}}


def timeline_bytes(sides: Sequence[Timeline], about: dict[str, Any] | None = None) -> bytes:
    """What :func:`trace_events` gives, as a file."""
    return dump_json(trace_events(sides, about)).encode()
