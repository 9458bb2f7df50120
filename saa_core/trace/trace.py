"""The immutable record of one run on one text; file.py writes and reads it.

Shapes: L layers, H heads, Q, K positions, M, S query and key blocks, N tokens, E hidden size.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saa_core.bounds import student_interval
from saa_core.errors import TraceError
from saa_core.trace.audited import Audited
from saa_core.trace.file import read_file, write_file
from saa_core.trace.maps import (
    WHOLE,
    Array,
    HeadMaps,
    InMemory,
    LayerMaps,
    Layers,
    MapPart,
    StoredMaps,
)
from saa_core.trace.recorded import Execution, ModelInfo
from saa_core.types import BELOW, DENSE, GATE, NOT_ALLOWED, Policy, Timing

if TYPE_CHECKING:
    from saa_core.trace.tables import Tables


@dataclass(frozen=True, eq=False)
class Trace:
    """What one run decided, what it kept and what came out.

    Args:
        text: the text, or None for a call on token ids; likewise ``tokens`` and ``offsets``.
        tokens: token strings as the tokenizer writes them.
        offsets: (start, end) of each token in characters of ``text``; of no two tokens do they overlap.
            Empty where a token only goes on with a character that the one before has begun, or marks
            the start of a word; (0, 0) where it was added to the text. In runs that were recorded
            before, tokens that share a character all have it.
        token_ids: int64 [N].
        model, policy, execution, versions: what ran; policy None is plain dense attention.
        block: (queries, keys) per decided block in tokens; (1, 1) is pair by pair.
        density: kept / allowed pairs, [L, H].
        predicted_mass: the gate's estimate of the attention mass that is kept, [L, H].
        calibrated_mass: the same corrected by the calibration on held-out texts, [L, H]; None where the
            gate has none (:class:`saa_core.gates.reliability.Reliability`).
        retained_mass: the share of the true attention mass that is kept, [L, H]; None in a summary.
        attention_received: share of attention that each token receives, [L, H, K]; None in a summary.
        mass_queries: queries from which these two were estimated, int32 [R]; None: from all of them.
        retained_rows: the kept share of each of those queries, [L, H, R]; None where all were used.
        layer_kind: which of U kinds each layer is, in what is allowed and forced, int32 [L].
        first, last: first and last key that each query may see, int32 [U, Q]; last < first: none.
        forced: reason code of blocks that are kept, or excluded, in any case, uint8
            [U, 1 or H, M, S]; 0 = none. [U, 1, 1, 1] where there is no policy.
        targets: what the rule aimed at in each layer, calibration included, [L].
        hidden: final hidden states, [N, E], or None.
        top_ids, top_probs: the five most likely next tokens at each position, [N, 5], or None.
        kept_tokens: tokens that each layer computed, bool [L, N]; None where none can be dropped.
        token_score: log-odds that a token is still needed, by the gate in front of each layer, [L, N];
            NaN where no gate was asked. None where none can be dropped.
        labels, label_probs: of a classification task, and the probability of each; None without one.
        timing: measured latencies of this text, if they were measured.
        events: what the guard did.
        audited: what an audit found about this run; None of a run of no audit.
        lm_head: hidden states to logits; only in the process that ran the model, never stored.
    """

    text: str | None
    tokens: tuple[str, ...] | None
    offsets: tuple[tuple[int, int], ...] | None
    token_ids: Array
    model: ModelInfo
    policy: Policy | None
    execution: Execution
    versions: Mapping[str, str]
    block: tuple[int, int]
    density: Array
    predicted_mass: Array
    retained_mass: Array | None
    attention_received: Array | None
    first: Array
    last: Array
    forced: Array
    layer_kind: Array
    targets: Array
    calibrated_mass: Array | None = None
    mass_queries: Array | None = None
    retained_rows: Array | None = None
    hidden: Array | None = None
    top_ids: Array | None = None
    top_probs: Array | None = None
    kept_tokens: Array | None = None
    token_score: Array | None = None
    labels: tuple[str, ...] | None = None
    label_probs: Array | None = None
    timing: tuple[Timing, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    audited: Audited | None = None
    layers: Layers | None = field(default=None, repr=False)
    lm_head: Callable[[Array], Array] | None = field(default=None, repr=False)
    _last: list[tuple[int, StoredMaps]] = field(default_factory=list, repr=False, init=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return (self.density.shape[0], self.density.shape[1])

    @property
    def queries(self) -> int:
        return int(self.first.shape[1])

    @property
    def keys(self) -> int:
        return len(self.token_ids)

    @property
    def sparsity(self) -> float:
        """Share of the allowed pairs that was not computed, over all layers and heads."""
        return float(1 - np.average(self.density.mean(1), weights=self.allowed_pairs))

    def retained_interval(
        self, layer: int | None = None, head: int | None = None
    ) -> tuple[float, float] | None:
        """Where the mean retained mass lies, 95 % (Student's t over the drawn queries): of the run, of a
        layer, or of one head of it. None where it is exact, or was not recorded.

        Raises:
            TraceError: the layer or head does not exist.
        """
        if self.retained_rows is None:
            return None
        rows = self.retained_rows
        if layer is not None:
            self._check("layer", layer, self.shape[0])
            rows = rows[layer : layer + 1]
        if head is not None:
            self._check("head", head, self.shape[1])
            rows = rows[:, head : head + 1]
        low, high = student_interval([float(x) for x in rows.mean((0, 1))])
        return max(low, 0.0), min(high, 1.0)

    @cached_property
    def allowed_pairs(self) -> Array:
        """Number of allowed pairs of one head, by layer, int64 [L]."""
        counts = np.maximum(self.last.astype(np.int64) - self.first + 1, 0).sum(1)
        found: Array = counts[self.layer_kind]
        return found

    def allowed(self, layer: int, part: MapPart = WHOLE) -> Array:
        """Pairs that the dense model would compute in a layer, bool [Q, K], or a part of them.

        Raises:
            TraceError: the layer does not exist.
        """
        self._check("layer", layer, self.shape[0])
        kind, (rows, columns) = self.layer_kind[layer], part
        k = np.arange(self.keys, dtype=np.int32)[columns]
        first, last = self.first[kind][rows], self.last[kind][rows]
        found: Array = (k >= first[:, None]) & (k <= last[:, None])
        return found

    def allowed_count(self, layer: int) -> Array:
        """Allowed pairs per decided block, int64 [M, S]."""
        (bq, bk), kind = self.block, self.layer_kind[layer]
        starts = np.arange(0, self.keys, bk)
        first, last = self.first[kind][:, None], self.last[kind][:, None] + 1
        seen = np.minimum(starts + bk, last) - np.maximum(starts, first)
        rows = np.maximum(seen, 0).astype(np.int64)
        found: Array = np.add.reduceat(rows, np.arange(0, self.queries, bq), 0)
        return found

    def maps(self, layer: int) -> LayerMaps:
        """The decision of one layer at the granularity it was made.

        Raises:
            TraceError: the layer does not exist, or the trace is a summary.
        """
        heads = [self.decision(layer, head) for head in range(self.shape[1])]
        return LayerMaps(
            np.stack([head.keep for head in heads]),
            np.stack([head.score for head in heads]),
            np.stack([head.threshold for head in heads]),
        )

    def _packed(self, layer: int) -> StoredMaps:
        """One layer as stored; the last one is kept, since views ask for it again and again."""
        if self.layers is None:
            raise TraceError("this trace is a summary; record it with record='full' to see maps")
        if not self._last or self._last[0][0] != layer:
            self._last[:] = [(layer, self.layers.read(layer))]
        return self._last[0][1]

    def decision(self, layer: int, head: int) -> HeadMaps:
        """The decision of one head at the granularity it was made.

        Raises:
            TraceError: the layer or head does not exist, or the trace is a summary.
        """
        self._check("layer", layer, self.shape[0])
        self._check("head", head, self.shape[1])
        if self.policy is None:
            whole = (self.queries, self.keys)
            zeros = np.broadcast_to(np.float32(0), whole)
            return HeadMaps(np.broadcast_to(True, whole), zeros, zeros[:, 0])
        packed = self._packed(layer)
        return HeadMaps(
            np.unpackbits(packed.keep[head], axis=-1, count=self.forced.shape[-1]).astype(bool),
            packed.score[head].astype(np.float32),
            packed.threshold[head],
        )

    def keep_map(self, layer: int, head: int, part: MapPart = WHOLE) -> Array:
        """Kept pairs, bool [Q, K], or those of a part of the map, such as ``np.s_[:64, 100:]``."""
        kept = self._expand(self.decision(layer, head).keep, part)
        return kept & self.allowed(layer, part)

    def score_map(self, layer: int, head: int, part: MapPart = WHOLE) -> Array:
        """Predicted mass of the block that each pair lies in, float32 [Q, K]; 0 if not allowed."""
        score = self._expand(self.decision(layer, head).score, part)
        return np.where(self.allowed(layer, part), score, np.float32(0))

    def reason_map(self, layer: int, head: int, part: MapPart = WHOLE) -> Array:
        """Why each pair is kept or dropped, codes into ``REASONS``, uint8 [Q, K]."""
        allowed = self.allowed(layer, part)
        if self.policy is None:
            self._check("head", head, self.shape[1])
            return np.where(allowed, np.uint8(DENSE), np.uint8(NOT_ALLOWED))
        kept = self.decision(layer, head).keep
        forced = self.forced_codes(layer, head)
        codes = np.where(forced > 0, forced, np.where(kept, GATE, BELOW)).astype(np.uint8)
        return np.where(allowed, self._expand(codes, part), np.uint8(NOT_ALLOWED))

    def forced_codes(self, layer: int, head: int) -> Array:
        """Reason codes of the blocks on which the gate had no say, uint8 [M, S]; 0 = none."""
        codes = self.forced[self.layer_kind[layer]]
        found: Array = codes[head if len(codes) > 1 else 0]
        return found

    @property
    def token_share(self) -> float:
        """Share of the token work that was done: tokens computed / tokens, mean over layers."""
        return 1.0 if self.kept_tokens is None else float(self.kept_tokens.mean())

    @property
    def label(self) -> str | None:
        """The most probable label; None without a classification task."""
        if self.labels is None or self.label_probs is None:
            return None
        return self.labels[int(self.label_probs.argmax())]

    @property
    def plan(self) -> Array:
        """Deprecated name of ``layer_kind``."""
        _warn_renamed("plan", "layer_kind")
        return self.layer_kind

    @property
    def received(self) -> Array | None:
        """Deprecated name of ``attention_received``."""
        _warn_renamed("received", "attention_received")
        return self.attention_received

    @property
    def alive(self) -> Array | None:
        """Deprecated name of ``kept_tokens``."""
        _warn_renamed("alive", "kept_tokens")
        return self.kept_tokens

    @property
    def head(self) -> Callable[[Array], Array] | None:
        """Deprecated name of ``lm_head``."""
        _warn_renamed("head", "lm_head")
        return self.lm_head

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from saa_core.trace.notebook import html  # only a notebook needs it

        return html(self)

    def _expand(self, blocks: Array, part: MapPart) -> Array:
        """A part of the map, pair by pair, from the blocks that it touches."""
        rows, columns = part
        if self.block == (1, 1) or self.policy is None:
            return blocks[rows, columns]
        q = np.arange(self.queries)[rows] // self.block[0]
        k = np.arange(self.keys)[columns] // self.block[1]
        return blocks[q[:, None], k]

    def _check(self, argument: str, value: int, count: int) -> None:
        if not 0 <= value < count:
            raise TraceError(f"{argument}={value!r} does not exist; choose 0 to {count - 1}")

    @property
    def nbytes(self) -> int:
        """Bytes that the trace holds in memory, maps included."""
        arrays = [value for value in vars(self).values() if isinstance(value, np.ndarray)]
        if isinstance(self.layers, InMemory):
            for packed in self.layers.packed.values():
                arrays += [packed.keep, packed.score, packed.threshold]
        return sum(array.nbytes for array in arrays)

    def to_arrow(self, run: str = "") -> "Tables":
        """The run, its heads, its tokens and the guard's events as Arrow tables.

        Args:
            run: what stands in the column ``id``, by which the tables join.
        """
        from saa_core.trace.tables import tables  # only who asks for tables waits for Arrow

        return tables(self, run, None)

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Writes the trace to one file, under a temporary name first; returns its path."""
        path = Path(file)
        write_file(path, {each.name: getattr(self, each.name) for each in fields(self)})
        return path

    @staticmethod
    def load(file: str | os.PathLike[str]) -> "Trace":
        """Opens a trace file; maps are read when asked for.

        Raises:
            TraceError: the file is missing, broken, no trace, or of an unknown version.
        """
        return Trace(**read_file(Path(file)))


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"Trace.{old} is now Trace.{new}", DeprecationWarning, stacklevel=3)
