"""Two runs laid over each other: which pairs only one of them keeps, and by which margin.

Reads traces; runs nothing. The texts may differ by some words: tokens are aligned, and only pairs whose
two tokens have a counterpart are compared. Runs that were decided in blocks are compared in the cells
that both sides' blocks cut the aligned tokens into, which is exact, and as fast as the blocks are few.

Shapes: L layers, H heads, Q queries and K keys of the first text, R, C rows and columns of cells.
"""

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from saa_core.errors import TraceError
from saa_core.trace.align import Alignment, align
from saa_core.trace.maps import Array
from saa_core.trace.trace import Trace

OUTSIDE, NEITHER, BOTH, ONLY_FIRST, ONLY_SECOND = range(5)
"""Codes of :func:`difference_map`."""
KEPT_BY = ("neither", "both", "first", "second")
"""The codes from NEITHER on, as :func:`difference_rows` names them."""


@dataclass(frozen=True)
class Flip:
    """A pair, or some that were decided together, that only one of two runs keeps.

    Args:
        query, key: positions in the first text; of several pairs the last query and the first key.
        other_query, other_key: the same in the second text.
        pairs: how many pairs were decided together.
        kept_first: the first run keeps it, the second drops it; False the other way round.
        margin_first, margin_second: score minus threshold, a share of predicted mass; None where
            no score decided (dense, always kept, forced, dropped tokens, rows in which none passes).
    """

    layer: int
    head: int
    query: int
    key: int
    other_query: int
    other_key: int
    pairs: int
    kept_first: bool
    margin_first: float | None
    margin_second: float | None

    @property
    def swing(self) -> float:
        """How far the margin moved between the two runs; what has none counts as 0."""
        return abs((self.margin_first or 0.0) - (self.margin_second or 0.0))


@dataclass(frozen=True, eq=False)
class Difference:
    """What two runs decided about the same pairs.

    Args:
        pairs: pairs that both models may compute and that have a counterpart, int64 [L].
        both, only_first, only_second: kept pairs, int64 [L, H].
        flips: pairs that only one of the two keeps, the largest swing first.
    """

    alignment: Alignment
    pairs: Array
    both: Array
    only_first: Array
    only_second: Array
    flips: tuple[Flip, ...]

    @property
    def share(self) -> Array:
        """Share of the compared pairs on which the two runs disagree, [L, H]."""
        found: Array = (self.only_first + self.only_second) / np.maximum(self.pairs, 1)[:, None]
        return found


def difference(
    first: Trace, second: Trace, alignment: Alignment | None = None, *, limit: int = 200
) -> Difference:
    """Compares every decision of two runs.

    Args:
        alignment: of the two texts' tokens; found here if it is None.
        limit: length of the list of flips.

    Raises:
        TraceError: the models differ in layers or heads, or a trace is a summary.
    """
    alignment = _align(first, second, alignment)
    cells = _Cells(first, second, alignment)
    L, H = first.shape
    both, only_first, only_second = (np.zeros((L, H), np.int64) for _ in range(3))
    pairs = np.zeros(L, np.int64)
    best, turn = list[tuple[float, int, Flip]](), itertools.count()
    for layer in range(L):
        count = cells.count(layer)
        pairs[layer] = count.sum()
        for head in range(H):
            a, b = cells.read_decision(0, layer, head), cells.read_decision(1, layer, head)
            both[layer, head] = count[a.keep & b.keep].sum()
            only_first[layer, head] = count[a.keep & ~b.keep].sum()
            only_second[layer, head] = count[~a.keep & b.keep].sum()
            swing = np.abs(np.nan_to_num(a.margin) - np.nan_to_num(b.margin))
            swing = np.where((a.keep != b.keep) & (count > 0), swing, -1.0)
            for place in _largest(swing, limit):
                flip = cells.flip(layer, head, place, count, a, b)
                entry = (float(swing[place]), next(turn), flip)
                if len(best) < limit:
                    heapq.heappush(best, entry)
                elif entry[0] > best[0][0]:
                    heapq.heapreplace(best, entry)
    ranked = sorted((flip for _, _, flip in best), key=_order)
    return Difference(alignment, pairs, both, only_first, only_second, tuple(ranked))


def difference_map(
    first: Trace, second: Trace, alignment: Alignment | None, layer: int, head: int
) -> Array:
    """What both runs decided about each pair of the first text, uint8 [Q, K].

    OUTSIDE where a token has no counterpart or the pair is not allowed, else NEITHER, BOTH,
    ONLY_FIRST or ONLY_SECOND.

    Raises:
        TraceError: see :func:`difference`; or the layer or head does not exist.
    """
    alignment = _align(first, second, alignment)
    places = np.ix_(alignment.first, alignment.first), np.ix_(alignment.second, alignment.second)
    allowed = first.allowed(layer)[places[0]] & second.allowed(layer)[places[1]]
    a = first.keep_map(layer, head)[places[0]]
    b = second.keep_map(layer, head)[places[1]]
    codes = np.where(a, np.where(b, BOTH, ONLY_FIRST), np.where(b, ONLY_SECOND, NEITHER))
    found = np.full((first.queries, first.keys), OUTSIDE, np.uint8)
    found[places[0]] = np.where(allowed, codes, OUTSIDE)
    return found


def difference_rows(codes: Array) -> pa.Table:
    """A map of :func:`difference_map` as rows: query and key in the first text, counted from 0, and who
    keeps the pair: "neither", "both", "first" or "second". What lies outside has no row."""
    query, key = np.nonzero(codes != OUTSIDE)
    kept = pa.array(codes[query, key].astype(np.int32) - NEITHER)
    return pa.table(
        {
            "query": pa.array(query.astype(np.int32)),
            "key": pa.array(key.astype(np.int32)),
            "kept_by": pa.DictionaryArray.from_arrays(kept, pa.array(KEPT_BY)),
        }
    )


def _align(first: Trace, second: Trace, alignment: Alignment | None) -> Alignment:
    if first.shape != second.shape:
        raise TraceError(
            f"the two traces have {first.shape} and {second.shape} layers and heads; only models of "
            "one shape can be laid over each other"
        )
    return alignment or align(first.token_ids.tolist(), second.token_ids.tolist())


def _order(flip: Flip) -> tuple[float, int, int, int, int]:
    return (-flip.swing, flip.layer, flip.head, flip.query, flip.key)


def _largest(swing: Array, limit: int) -> list[tuple[int, int]]:
    """Places of the largest values that are not negative, in no order."""
    flat = swing.ravel()
    found = np.argpartition(-flat, limit)[:limit] if flat.size > limit else np.arange(flat.size)
    rows, columns = np.unravel_index(found[flat[found] >= 0], swing.shape)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Decided:
    """One head in cells: keep, bool [R, C], and margin [R, C], NaN where no score decided."""

    keep: Array
    margin: Array


class _Cells:
    """The aligned tokens of two texts, cut wherever a block of one of the two runs ends."""

    def __init__(self, first: Trace, second: Trace, alignment: Alignment) -> None:
        self.traces = (first, second)
        self.at = (np.asarray(alignment.first, int), np.asarray(alignment.second, int))
        self.rows, self.columns = (self._starts(axis) for axis in (0, 1))
        self._counts: dict[tuple[int, int], Array] = {}

    def _starts(self, axis: int) -> Array:
        """Index among the aligned tokens at which each cell begins."""
        cut = np.zeros(len(self.at[0]), bool)
        cut[:1] = True
        for trace, at in zip(self.traces, self.at, strict=True):
            if trace.policy is not None:
                cut[1:] |= np.diff(at // trace.block[axis]) != 0
        return np.flatnonzero(cut)

    def count(self, layer: int) -> Array:
        """Pairs per cell that both may compute, int64 [R, C]."""
        kinds = (int(self.traces[0].layer_kind[layer]), int(self.traces[1].layer_kind[layer]))
        if kinds not in self._counts:
            seen = [
                trace.allowed(layer)[np.ix_(at, at)]
                for trace, at in zip(self.traces, self.at, strict=True)
            ]
            pairs = (seen[0] & seen[1]).astype(np.int64)
            if pairs.size:
                pairs = np.add.reduceat(np.add.reduceat(pairs, self.rows, 0), self.columns, 1)
            self._counts[kinds] = pairs
        return self._counts[kinds]

    def read_decision(self, side: int, layer: int, head: int) -> _Decided:
        """What one of the two runs decided about each cell."""
        trace, at = self.traces[side], self.at[side]
        shape = (len(self.rows), len(self.columns))
        if trace.policy is None:
            return _Decided(np.ones(shape, bool), np.full(shape, np.nan))
        m = at[self.rows] // trace.block[0]
        s = at[self.columns] // trace.block[1]
        maps, place = trace.decision(layer, head), np.ix_(m, s)
        margin = maps.score[place] - maps.threshold[m][:, None]
        decided = np.isfinite(margin) & (trace.forced_codes(layer, head)[place] == 0)
        return _Decided(maps.keep[place], np.where(decided, margin, np.nan))

    def flip(
        self, layer: int, head: int, place: tuple[int, int], count: Array, a: _Decided, b: _Decided
    ) -> Flip:
        """One cell in words, named by its last query and first key: if any of it is allowed, they are."""
        ends = [*self.rows[1:].tolist(), len(self.at[0])]
        row, column = ends[place[0]] - 1, self.columns[place[1]]
        (q, k), (other_q, other_k) = ((int(at[row]), int(at[column])) for at in self.at)
        margins = [float(side.margin[place]) for side in (a, b)]
        known = [None if np.isnan(margin) else margin for margin in margins]
        kept_first, pairs = bool(a.keep[place]), int(count[place])
        return Flip(layer, head, q, k, other_q, other_k, pairs, kept_first, known[0], known[1])
