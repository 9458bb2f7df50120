"""Recorded runs, comparisons and times: what is asked for to be looked at. One text at a time."""

import io
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saa_core.explain.damage import damage_gates
from saa_core.explain.effects import Effect, effects
from saa_core.explain.tradeoff import Point, tradeoff
from saa_core.files import dump_json
from saa_core.model import Model
from saa_core.run.execute import Record, execute
from saa_core.run.text import compare_and_fill, encode, trace_of
from saa_core.run.timing import rounds
from saa_core.serve.jobs import Piece
from saa_core.serve.work.parts import Cancelling, NotFiniteError, Work
from saa_core.trace.compare import Comparison
from saa_core.trace.maps import InMemory, StoredMaps
from saa_core.trace.trace import Trace
from saa_core.types import Policy, Timing

Steps = Iterator[list[tuple[Work, Piece]]]
Maker = Callable[[Sequence[Work], Cancelling], Steps]


@dataclass(frozen=True, eq=False)
class Sides:
    """One text by the original model densely and by the other under a policy, and what differs."""

    dense: Trace
    trace: Trace
    comparison: Comparison


def recorded(
    model: Model, text: str, policy: Policy | None, record: Record, stop: Cancelling
) -> Trace:
    """As :func:`saa_core.run`, and it can be stopped.

    Raises:
        NotFiniteError: what came out holds numbers that are none.
    """
    encoded = encode(model, text)
    found = execute(model, [encoded["input_ids"]], policy, record, cancelled=stop)
    trace = trace_of(model, text, encoded, found)
    for array in (trace.hidden, trace.label_probs):
        if array is not None and not bool(np.isfinite(array).all()):
            raise NotFiniteError("a state holds numbers that are none")
    return trace


def recording(
    model: Model,
    text: str,
    policy: Policy | None,
    record: Record,
    before: Callable[[], None] = lambda: None,
) -> Maker:
    """One run, as a Trace; dense ones of a task are those of its reference model."""

    def steps(works: Sequence[Work], stop: Cancelling) -> Steps:
        (work,) = works
        before()
        own = model if policy is not None or model.task is None else model.reference_model
        yield [(work, Piece(recorded(own, text, policy, record, stop)))]

    return steps


def comparing(
    model: Model, original: Model, text: str, policy: Policy, damage: str | None
) -> Maker:
    """Dense and under a policy, as Sides.

    Args:
        original: computes the dense side.
        damage: the gates of a copy are damaged in this way, one of saa_core.explain.damage.KINDS.
    """

    def steps(works: Sequence[Work], stop: Cancelling) -> Steps:
        (work,) = works
        dense = recorded(original, text, None, "full", stop)
        yield []
        own = model if damage is None else damage_gates(model, damage)
        trace = recorded(own, text, policy, "full", stop)
        yield [(work, Piece(Sides(*compare_and_fill(dense, trace))))]

    return steps


def timing(model: Model, ids: Sequence[Sequence[int]], policy: Policy, repeats: int) -> Maker:
    """Dense and a policy in turn at each length, as a list of Timings; a round is a step."""

    def steps(works: Sequence[Work], stop: Cancelling) -> Steps:
        (work,) = works
        found = list[Timing]()
        for own in ids:
            so_far = list[Timing]()
            for each in rounds(model, own, (None, policy), repeats=repeats):
                so_far = each
                yield []
            found += so_far
        yield [(work, Piece(found))]

    return steps


def sweeping(model: Model, original: Model, text: str, policy: Policy) -> Maker:
    """The trade-off of a text, as a list of Points; a point is a step."""

    def steps(works: Sequence[Work], stop: Cancelling) -> Steps:
        (work,) = works
        dense = recorded(original, text, None, "full", stop)
        yield []
        found = list[Point]()
        for point in tradeoff(model, text, policy=policy, dense=dense):
            found.append(point)
            yield []
        yield [(work, Piece(found))]

    return steps


def leaving_out(model: Model, text: str, policy: Policy, layer: int, head: int | None) -> Maker:
    """What leaving out each block of a layer does, as a list of Effects; a block is a step."""

    def steps(works: Sequence[Work], stop: Cancelling) -> Steps:
        (work,) = works
        trace = recorded(model, text, policy, "full", stop)
        yield []
        found = list[Effect]()
        for effect in effects(model, trace, layer, head):
            found.append(effect)
            yield []
        yield [(work, Piece(found))]

    return steps


def without_text(trace: Trace) -> Trace:
    """A trace without its text and what tells it: no words, ids, states, likely next tokens, scores or attention
    of single tokens. Which pairs and tokens were kept stays, and the shares of layers and heads."""
    layers, score = trace.layers, trace.token_score
    return replace(
        trace,
        text=None,
        tokens=None,
        offsets=None,
        token_ids=np.zeros_like(trace.token_ids),
        attention_received=None,
        mass_queries=None,
        retained_rows=None,
        token_score=None if score is None else np.full_like(score, np.nan),
        layers=None
        if layers is None
        else InMemory({at: _unscored(layers.read(at)) for at in range(trace.shape[0])}),
        hidden=None,
        top_ids=None,
        top_probs=None,
        lm_head=None,
    )


def _unscored(maps: StoredMaps) -> StoredMaps:
    """One layer's decision without the gate's scores."""
    return replace(maps, score=np.zeros_like(maps.score), threshold=np.zeros_like(maps.threshold))


def packed(trace: Trace) -> bytes:
    """A trace as the bytes of its file, which is written in the system's temporary folder for a moment."""
    with tempfile.TemporaryDirectory(prefix="saa-") as folder:
        return trace.save(Path(folder) / "run.saa").read_bytes()


def figures(found: Sides) -> dict[str, Any]:
    """What differs between two sides, in plain numbers."""
    kl, same = found.comparison.kl, found.comparison.top1_agreement
    own: dict[str, Any] = {
        "kl_nats": None if kl is None else float(kl.mean()),
        "top1_agreement": None if same is None else float(same.mean()),
        "output_error": float(found.comparison.output_error.mean()),
        "embedding_cosine": float(found.comparison.embedding_cosine),
        "density": float(found.trace.density.mean()),
        "tokens": found.trace.keys,
        "policy": str(found.trace.policy),
    }
    first, second = found.dense.label_probs, found.trace.label_probs
    if first is not None and second is not None:
        own["label"] = {"dense": found.dense.label, "saa": found.trace.label}
        own["probability_change"] = float(np.abs(first - second).max())
    return {name: _number(value) for name, value in own.items()}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def packed_pair(found: Sides) -> bytes:
    """Both sides and what differs, as a zip: ``dense.saa``, ``trace.saa``, ``figures.json``."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("dense.saa", packed(found.dense))
        archive.writestr("trace.saa", packed(found.trace))
        archive.writestr("figures.json", dump_json(figures(found)))
    return whole.getvalue()
