"""The decisions of one head as rows: what was scored, against which threshold, kept or not, and why.

Rows are made at the granularity of the decision, so a long text
that was decided in blocks has one row per block, and none is made for what the model may not look at.
"""

import numpy as np
import pyarrow as pa

from saa_core.errors import TraceError
from saa_core.trace.maps import WHOLE, Array, MapPart
from saa_core.trace.trace import Trace
from saa_core.types import BELOW, DENSE, GATE, REASONS

MOST = 10_000_000
"""Rows of a table; more are refused before they take the memory."""
NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata={"title": title})
        for name, kind, title in (
            ("layer", pa.int16(), "layer, counted from 0"),
            ("head", pa.int16(), "head, counted from 0"),
            ("query", pa.int32(), "first query of the decision, token counted from 0"),
            (
                "query_last",
                pa.int32(),
                "last query of the decision; the same where single pairs are decided",
            ),
            ("key", pa.int32(), "first key of the decision, token counted from 0"),
            (
                "key_last",
                pa.int32(),
                "last key of the decision; the same where single pairs are decided",
            ),
            ("query_token", NAMES, "first query as the tokenizer writes it"),
            ("key_token", NAMES, "first key as the tokenizer writes it"),
            (
                "score",
                pa.float32(),
                "attention mass that the gate predicts, share of a query's, 1 is all",
            ),
            ("threshold", pa.float32(), "score from which on the gate keeps in this row"),
            ("kept", pa.bool_(), "computed"),
            ("reason", NAMES, "why it was kept or dropped"),
        )
    ]
)


def count(trace: Trace, layer: int) -> int:
    """Decisions of one head of a layer on what the model may look at: rows of :func:`decisions`.

    Raises:
        TraceError: the layer does not exist.
    """
    if trace.policy is None or trace.block == (1, 1):
        trace.allowed(layer, np.s_[:1, :1])  # is there such a layer?
        return int(trace.allowed_pairs[layer])
    return int(np.count_nonzero(trace.allowed_count(layer)))


def decisions(trace: Trace, layer: int, head: int, part: MapPart = WHOLE) -> pa.Table:
    """One row per decision of a head, queries in order.

    The columns are those of SCHEMA, whose fields say what they hold. Tokens are null where they were not
    recorded, scores without a gate, thresholds where nothing had to pass one.

    Args:
        part: only the decisions that this part of the map touches, such as ``np.s_[:64, 100:164]``.

    Raises:
        TraceError: the layer or head does not exist, the trace is a summary, or the table would have
            more than MOST rows.
    """
    found = trace.decision(layer, head)
    if part is WHOLE and count(trace, layer) > MOST:
        raise TraceError(
            f"layer={layer} has {count(trace, layer):,} decisions, more than {MOST:,} rows; ask for a "
            "part of the map, such as np.s_[:512, :512]"
        )
    bq, bk = trace.block if trace.policy is not None else (1, 1)
    rows, columns = (
        _touched(part[0], trace.queries, bq),
        _touched(part[1], trace.keys, bk),
    )
    allowed = _allowed(trace, layer, rows, columns, (bq, bk))
    at_q, at_k = np.nonzero(allowed)
    m, s = rows[at_q], columns[at_k]
    dense = trace.policy is None
    kept = found.keep[m, s]
    forced = np.zeros(len(m), np.uint8) if dense else trace.forced_codes(layer, head)[m, s]
    codes = np.where(forced > 0, forced, np.where(kept, DENSE if dense else GATE, BELOW))
    threshold = found.threshold[m]
    query, key = m * bq, s * bk
    scored = np.full(len(m), not dense)
    return pa.table(
        schema=SCHEMA,
        data={
            "layer": pa.array(np.full(len(m), layer, np.int16)),
            "head": pa.array(np.full(len(m), head, np.int16)),
            "query": pa.array(query.astype(np.int32)),
            "query_last": pa.array((np.minimum(query + bq, trace.queries) - 1).astype(np.int32)),
            "key": pa.array(key.astype(np.int32)),
            "key_last": pa.array((np.minimum(key + bk, trace.keys) - 1).astype(np.int32)),
            "query_token": _tokens(trace, query),
            "key_token": _tokens(trace, key),
            "score": pa.array(found.score[m, s], pa.float32(), mask=~scored),
            "threshold": pa.array(threshold, pa.float32(), mask=~(scored & np.isfinite(threshold))),
            "kept": pa.array(kept),
            "reason": _named(codes.astype(np.int32), REASONS),
        },
    )


def _touched(part: slice, positions: int, size: int) -> Array:
    """Blocks along one side that a part of it touches."""
    found: Array = np.unique(np.arange(positions)[part] // size)
    return found


def _allowed(
    trace: Trace, layer: int, rows: Array, columns: Array, block: tuple[int, int]
) -> Array:
    """Blocks that hold an allowed pair, bool [rows, columns]."""
    if block == (1, 1):
        if not len(rows) or not len(columns):
            return np.zeros((len(rows), len(columns)), bool)
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        found: Array = trace.allowed(layer, part)[np.ix_(rows - rows[0], columns - columns[0])]
        return found
    some: Array = trace.allowed_count(layer)[np.ix_(rows, columns)] > 0
    return some


def _tokens(trace: Trace, positions: Array) -> pa.Array:
    if trace.tokens is None:
        return pa.nulls(len(positions), NAMES)
    return _named(positions, trace.tokens)


def _named(indices: Array, names: tuple[str, ...]) -> pa.Array:
    """Names by number, each held once."""
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), pa.array(names))
