"""A trace as Arrow tables: the run, its heads, its tokens, what the guard did.

Shares are in [0, 1], times in ms. What a trace does not hold is null.
"""

import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from saa_core.files import dump_json
from saa_core.trace.recorded import Recorded
from saa_core.types import Timing

SEPARATOR = " + "
"""Between a model's name and its adapter or task (``Spec.title``)."""

RUNS = pa.schema(
    [
        ("id", pa.string()),
        ("recorded", pa.timestamp("us", "UTC")),
        ("model", pa.string()),
        ("base", pa.string()),
        ("family", pa.string()),
        ("gate", pa.string()),
        ("trained", pa.bool_()),
        ("policy", pa.string()),
        ("rule", pa.string()),
        ("aim", pa.float64()),
        ("tokens_asked", pa.float64()),
        ("kernel", pa.string()),
        ("kernel_reason", pa.string()),
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("threads", pa.int32()),
        ("tokens", pa.int32()),
        ("layers", pa.int32()),
        ("heads", pa.int32()),
        ("block_queries", pa.int32()),
        ("block_keys", pa.int32()),
        ("density", pa.float64()),
        ("predicted_mass", pa.float64()),
        ("retained_mass", pa.float64()),
        ("token_share", pa.float64()),
        ("label", pa.string()),
        ("label_probability", pa.float64()),
        ("labels", pa.list_(pa.string())),
        ("next_token_id", pa.int64()),
        ("next_probability", pa.float64()),
        ("guard_limit", pa.float64()),
        ("guard_bound", pa.float64()),
        ("dense_ms", pa.float64()),
        ("saa_ms", pa.float64()),
        ("has_maps", pa.bool_()),
        ("text", pa.string()),
        ("text_sha256", pa.string()),
        ("audit", pa.string()),
        ("slices", pa.list_(pa.string())),
        ("agreement", pa.float64()),
        ("lost", pa.float64()),
    ]
)
HEADS = pa.schema(
    [
        ("id", pa.string()),
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("density", pa.float32()),
        ("predicted_mass", pa.float32()),
        ("retained_mass", pa.float32()),
        ("target", pa.float32()),
    ]
)
TOKENS = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int32()),
        ("token", pa.string()),
        ("token_id", pa.int64()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("received", pa.float32()),
        ("layers_computed", pa.int16()),
        ("next_token_id", pa.int64()),
        ("next_probability", pa.float32()),
    ]
)
EVENTS = pa.schema(
    [
        ("id", pa.string()),
        ("event", pa.int32()),
        ("layer", pa.int32()),
        ("suspected", pa.string()),
        ("done", pa.string()),
        ("measured", pa.float64()),
        ("after", pa.float64()),
        ("bound", pa.float64()),
        ("limit", pa.float64()),
        ("added", pa.float64()),
        ("details", pa.string()),
    ]
)


@dataclass(frozen=True)
class Tables:
    """Rows of one trace or of many; the columns are those of RUNS, HEADS, TOKENS and EVENTS."""

    runs: pa.Table
    heads: pa.Table
    tokens: pa.Table
    events: pa.Table


SCHEMAS = {"runs": RUNS, "heads": HEADS, "tokens": TOKENS, "events": EVENTS}


def tables(trace: Recorded, run: str, recorded: datetime | None) -> Tables:
    """The tables of one trace.

    Args:
        run: what stands in the column ``id``.
        recorded: when it was recorded; None is now.
    """
    return Tables(
        _runs(trace, run, recorded or datetime.now(UTC)),
        _heads(trace, run),
        _tokens(trace, run),
        _events(trace, run),
    )


def concatenate(parts: list[Tables]) -> Tables:
    """The rows of all parts; empty tables of none."""
    return Tables(
        **{
            name: pa.concat_tables([schema.empty_table(), *(getattr(part, name) for part in parts)])
            for name, schema in SCHEMAS.items()
        }
    )


def _runs(trace: Recorded, run: str, recorded: datetime) -> pa.Table:
    policy, execution, (layers, heads) = trace.policy, trace.execution, trace.shape
    result: dict[str, Any] = next(
        (dict(event) for event in trace.events if event.get("suspected") == "result"), {}
    )
    dense, sparse = _timings(trace.timing)
    row = {
        "id": run,
        "recorded": recorded,
        "model": trace.model.name,
        "base": trace.model.name.partition(SEPARATOR)[0],
        "family": trace.model.family,
        "gate": trace.model.gate,
        "trained": trace.model.trained,
        "policy": None if policy is None else policy.asked,
        "rule": None if policy is None else policy.rule_name,
        "aim": None if policy is None or not policy.aims else policy.aim,
        "tokens_asked": None if policy is None else policy.tokens,
        "kernel": execution.kernel,
        "kernel_reason": execution.reason,
        "device": execution.device,
        "dtype": execution.dtype,
        "threads": execution.threads,
        "tokens": trace.keys,
        "layers": layers,
        "heads": heads,
        "block_queries": trace.block[0],
        "block_keys": trace.block[1],
        "density": 1 - trace.sparsity,
        "predicted_mass": float(trace.predicted_mass.mean()),
        "retained_mass": None if trace.retained_mass is None else float(trace.retained_mass.mean()),
        "token_share": trace.token_share,
        "label": trace.label,
        "label_probability": None if trace.label_probs is None else float(trace.label_probs.max()),
        "labels": None if trace.labels is None else list(trace.labels),
        "next_token_id": None if trace.top_ids is None else int(trace.top_ids[-1, 0]),
        "next_probability": None if trace.top_probs is None else float(trace.top_probs[-1, 0]),
        "guard_limit": result.get("limit"),
        "guard_bound": result.get("bound"),
        "dense_ms": None if dense is None else dense.median_ms,
        "saa_ms": None if sparse is None else sparse.median_ms,
        "has_maps": policy is None or trace.layers is not None,
        "text": trace.text,
        "text_sha256": hashlib.sha256(_content(trace)).hexdigest(),
    }
    if trace.audited is not None:
        row |= asdict(trace.audited)
    return pa.Table.from_pylist([row], RUNS)


def _content(trace: Recorded) -> bytes:
    """What was run: the text, or the token ids of a call without one."""
    if trace.text is None:
        return trace.token_ids.astype("<i8").tobytes()
    return trace.text.encode("utf-8", "surrogatepass")


def _timings(timing: tuple[Timing, ...]) -> tuple[Timing | None, Timing | None]:
    dense = next((entry for entry in timing if entry.name == "dense"), None)
    return dense, next((entry for entry in timing if entry.name != "dense"), None)


def _heads(trace: Recorded, run: str) -> pa.Table:
    layers, heads = trace.shape
    count = layers * heads
    retained = trace.retained_mass
    columns = {
        "id": [run] * count,
        "layer": np.repeat(np.arange(layers, dtype=np.int16), heads),
        "head": np.tile(np.arange(heads, dtype=np.int16), layers),
        "density": trace.density.ravel(),
        "predicted_mass": trace.predicted_mass.ravel(),
        "retained_mass": [None] * count if retained is None else retained.ravel(),
        "target": np.repeat(trace.targets, heads),
    }
    return pa.Table.from_pydict(columns, HEADS)


def _tokens(trace: Recorded, run: str) -> pa.Table:
    count = trace.keys
    nothing = [None] * count
    offsets = trace.offsets
    columns = {
        "id": [run] * count,
        "position": np.arange(count, dtype=np.int32),
        "token": nothing if trace.tokens is None else list(trace.tokens),
        "token_id": trace.token_ids,
        "start": nothing if offsets is None else [start for start, _ in offsets],
        "end": nothing if offsets is None else [end for _, end in offsets],
        "received": nothing
        if trace.attention_received is None
        else trace.attention_received.mean((0, 1)),
        "layers_computed": nothing
        if trace.kept_tokens is None
        else trace.kept_tokens.sum(0, dtype=np.int16),
        "next_token_id": nothing if trace.top_ids is None else trace.top_ids[:, 0],
        "next_probability": nothing if trace.top_probs is None else trace.top_probs[:, 0],
    }
    return pa.Table.from_pydict(columns, TOKENS)


def _events(trace: Recorded, run: str) -> pa.Table:
    named = [name for name in EVENTS.names if name not in ("id", "event", "details")]
    rows = [
        {"id": run, "event": at, "details": dump_json(dict(event))}
        | {name: event.get(name) for name in named}
        for at, event in enumerate(trace.events)
    ]
    return pa.Table.from_pylist(rows, EVENTS)
