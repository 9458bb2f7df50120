"""The immutable record of one run on one text, in memory and on disk.

A trace is one safetensors file (``.saa``) whose header carries the JSON: nothing in it is ever
executed, and the maps of one layer are read only when asked for. Knows numpy arrays and files;
knows nothing about models.

Shapes: L layers, H heads, Q, K positions, M, S query and key blocks, N tokens, E hidden size.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from saa_core.errors import PolicyError, TraceError
from saa_core.files import replacing
from saa_core.trace.align import Alignment
from saa_core.trace.audited import Audited
from saa_core.trace.notebook import html
from saa_core.types import BELOW, DENSE, GATE, NOT_ALLOWED, Policy, Timing

if TYPE_CHECKING:
    from saa_core.trace.tables import Tables

TRACE_FORMAT = 3
"""2: layers may differ in what is allowed and forced (``plan``). 3: whole tokens may be dropped
(``alive``, ``token_score``, ``label_probs``). Files of formats 1 and 2 are still read."""
KNOWN_FORMATS = ("1", "2", "3")
Array = NDArray[Any]
Part = tuple[slice, slice]
WHOLE: Part = (slice(None), slice(None))


@dataclass(frozen=True)
class Execution:
    """How a run was executed: kernel and why it was chosen, device, dtype of the weights, threads."""

    kernel: str
    reason: str
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class ModelInfo:
    """Which model and gate ran. ``trained`` is False where the decisions mean nothing."""

    name: str
    family: str = ""
    gate: str = "untrained"
    trained: bool = False


@dataclass(frozen=True)
class Packed:
    """One layer's maps as stored: keep bit-packed, scores as float16, thresholds as float32."""

    keep: Array
    score: Array
    threshold: Array


@dataclass(frozen=True)
class LayerMaps:
    """One layer's decision per block: keep [H, M, S], score [H, M, S], threshold [H, M]."""

    keep: Array
    score: Array
    threshold: Array


@dataclass(frozen=True)
class HeadMaps:
    """One head's decision per block: keep [M, S], score [M, S], threshold [M]."""

    keep: Array
    score: Array
    threshold: Array


class Layers(Protocol):
    """Where packed maps come from: memory or a file."""

    def read(self, layer: int) -> Packed: ...


@dataclass(frozen=True)
class InMemory:
    """Maps of a trace that was just recorded."""

    packed: Mapping[int, Packed]

    def read(self, layer: int) -> Packed:
        return self.packed[layer]


@dataclass(frozen=True)
class OnDisk:
    """Maps of a trace file, read layer by layer."""

    file: Path

    def read(self, layer: int) -> Packed:
        try:
            with safe_open(self.file, framework="np") as stored:
                return Packed(
                    keep=stored.get_tensor(f"layer.{layer}.keep"),
                    score=stored.get_tensor(f"layer.{layer}.score"),
                    threshold=stored.get_tensor(f"layer.{layer}.threshold"),
                )
        except (OSError, SafetensorError) as error:
            raise TraceError(f"trace {self.file}: layer {layer} cannot be read: {error}") from error


@dataclass(frozen=True, eq=False)
class Trace:
    """What one run decided, what it kept and what came out.

    Args:
        text: the text, or None for a call on token ids; likewise ``tokens`` and ``offsets``.
        tokens: token strings as the tokenizer writes them.
        offsets: (start, end) of each token in characters of ``text``.
        token_ids: int64 [N].
        model, policy, execution, versions: what ran; policy None is plain dense attention.
        block: (queries, keys) per decided block in tokens; (1, 1) is pair by pair.
        density: kept / allowed pairs, [L, H].
        predicted_mass: the gate's estimate of the attention mass that is kept, [L, H].
        calibrated_mass: what such estimates were found to be worth on held-out texts, [L, H]; None where
            nobody has measured it (:class:`saa_core.gates.reliability.Reliability`).
        retained_mass: the share of the true attention mass that is kept, [L, H]; None in a summary.
        received: share of attention that each token receives, [L, H, K]; None in a summary.
        plan: which of U kinds each layer is, in what is allowed and forced, int32 [L].
        first, last: first and last key that each query may see, int32 [U, Q]; last < first: none.
        forced: reason code of blocks that are kept, or excluded, in any case, uint8
            [U, 1 or H, M, S]; 0 = none. [U, 1, 1, 1] where there is no policy.
        targets: what the rule aimed at in each layer, calibration included, [L].
        hidden: final hidden states, [N, E], or None.
        top_ids, top_probs: the five most likely next tokens at each position, [N, 5], or None.
        alive: tokens that each layer computed, bool [L, N]; None where none can be dropped.
        token_score: log-odds that a token is still needed, by the gate in front of each layer, [L, N];
            NaN where no gate was asked. None where none can be dropped.
        labels, label_probs: of a classification task, and the probability of each; None without one.
        timing: measured latencies of this text, if they were measured.
        events: what the guard did.
        audited: what an audit found about this run; None of a run of no audit.
        head: hidden states to logits; only in the process that ran the model, never stored.
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
    received: Array | None
    first: Array
    last: Array
    forced: Array
    plan: Array
    targets: Array
    calibrated_mass: Array | None = None
    hidden: Array | None = None
    top_ids: Array | None = None
    top_probs: Array | None = None
    alive: Array | None = None
    token_score: Array | None = None
    labels: tuple[str, ...] | None = None
    label_probs: Array | None = None
    timing: tuple[Timing, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    audited: Audited | None = None
    layers: Layers | None = field(default=None, repr=False)
    head: Callable[[Array], Array] | None = field(default=None, repr=False)
    _last: list[tuple[int, Packed]] = field(default_factory=list, repr=False, init=False)

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

    @cached_property
    def allowed_pairs(self) -> Array:
        """Number of allowed pairs of one head, by layer, int64 [L]."""
        counts = np.maximum(self.last.astype(np.int64) - self.first + 1, 0).sum(1)
        found: Array = counts[self.plan]
        return found

    def allowed(self, layer: int, part: Part = WHOLE) -> Array:
        """Pairs that the dense model would compute in a layer, bool [Q, K], or a part of them.

        Raises:
            TraceError: the layer does not exist.
        """
        self._check("layer", layer, self.shape[0])
        kind, (rows, columns) = self.plan[layer], part
        k = np.arange(self.keys, dtype=np.int32)[columns]
        first, last = self.first[kind][rows], self.last[kind][rows]
        found: Array = (k >= first[:, None]) & (k <= last[:, None])
        return found

    def allowed_count(self, layer: int) -> Array:
        """Allowed pairs per decided block, int64 [M, S]."""
        (bq, bk), kind = self.block, self.plan[layer]
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

    def _packed(self, layer: int) -> Packed:
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

    def keep_map(self, layer: int, head: int, part: Part = WHOLE) -> Array:
        """Kept pairs, bool [Q, K], or those of a part of the map, such as ``np.s_[:64, 100:]``."""
        kept = self._expand(self.decision(layer, head).keep, part)
        return kept & self.allowed(layer, part)

    def score_map(self, layer: int, head: int, part: Part = WHOLE) -> Array:
        """Predicted mass of the block that each pair lies in, float32 [Q, K]; 0 if not allowed."""
        score = self._expand(self.decision(layer, head).score, part)
        return np.where(self.allowed(layer, part), score, np.float32(0))

    def reason_map(self, layer: int, head: int, part: Part = WHOLE) -> Array:
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
        codes = self.forced[self.plan[layer]]
        found: Array = codes[head if len(codes) > 1 else 0]
        return found

    @property
    def token_share(self) -> float:
        """Share of the token work that was done: tokens computed / tokens, mean over layers."""
        return 1.0 if self.alive is None else float(self.alive.mean())

    @property
    def label(self) -> str | None:
        """The most probable label; None without a classification task."""
        if self.labels is None or self.label_probs is None:
            return None
        return self.labels[int(self.label_probs.argmax())]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html(self)

    def _expand(self, blocks: Array, part: Part) -> Array:
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
        arrays = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        if self.policy is not None and self.layers is not None:
            for layer in range(self.shape[0]):
                packed = self.layers.read(layer)
                for name in ("keep", "score", "threshold"):
                    arrays[f"layer.{layer}.{name}"] = getattr(packed, name)
        about = {
            "text": self.text,
            "tokens": self.tokens,
            "offsets": self.offsets,
            "model": asdict(self.model),
            "policy": None if self.policy is None else asdict(self.policy),
            "execution": asdict(self.execution),
            "versions": dict(self.versions),
            "block": self.block,
            "labels": self.labels,
            "timing": [asdict(timing) for timing in self.timing],
            "events": [dict(event) for event in self.events],
            "audited": None if self.audited is None else asdict(self.audited),
        }
        metadata = {"saa_trace": str(TRACE_FORMAT), "json": json.dumps(about)}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with replacing(path) as part:
            save_file(contiguous, part, metadata=metadata)
        return path

    @staticmethod
    def load(file: str | os.PathLike[str]) -> "Trace":
        """Opens a trace file; maps are read when asked for.

        Raises:
            TraceError: the file is missing, broken, no trace, or of an unknown version.
        """
        path = Path(file)
        try:
            with safe_open(path, framework="np") as stored:
                metadata = stored.metadata() or {}
                version = metadata.get("saa_trace")
                if version not in KNOWN_FORMATS:
                    raise TraceError(
                        f"trace {path}: format {version!r} is not known; this version reads "
                        f"{', '.join(KNOWN_FORMATS)}"
                    )
                about = json.loads(metadata["json"])
                names = set(stored.keys())
                arrays = {name: stored.get_tensor(name) for name in ARRAYS if name in names}
            if version == "1":
                arrays["plan"] = np.zeros(len(arrays["density"]), np.int32)
                aim = 1.0 if about["policy"] is None else about["policy"]["mass"]
                arrays["targets"] = np.full(len(arrays["density"]), aim, np.float32)
                arrays |= {name: arrays[name][None] for name in ("first", "last")}
                arrays["forced"] = arrays["forced"][None, None]
            full = any(name.startswith("layer.") for name in names)
            return Trace(
                text=about["text"],
                tokens=None if about["tokens"] is None else tuple(about["tokens"]),
                offsets=None
                if about["offsets"] is None
                else tuple((start, end) for start, end in about["offsets"]),
                model=ModelInfo(**about["model"]),
                policy=None if about["policy"] is None else Policy(**about["policy"]),
                execution=Execution(**about["execution"]),
                versions=about["versions"],
                block=(about["block"][0], about["block"][1]),
                labels=None if about.get("labels") is None else tuple(about["labels"]),
                timing=tuple(Timing(**timing) for timing in about["timing"]),
                events=tuple(about["events"]),
                audited=_audited(about.get("audited")),
                layers=OnDisk(path) if full else None,
                **{name: arrays.get(name) for name in ARRAYS},  # type: ignore[arg-type]
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, PolicyError) as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(f"trace {path}: cannot be read: {error}") from error


def _audited(about: dict[str, Any] | None) -> Audited | None:
    return None if about is None else Audited(**{**about, "slices": tuple(about["slices"])})


ARRAYS = (
    "token_ids",
    "density",
    "predicted_mass",
    "calibrated_mass",
    "retained_mass",
    "received",
    "first",
    "last",
    "forced",
    "plan",
    "targets",
    "hidden",
    "top_ids",
    "top_probs",
    "alive",
    "token_score",
    "label_probs",
)


def pack(keep: Array, score: Array, threshold: Array) -> Packed:
    """Maps of one layer as they are stored."""
    return Packed(
        keep=np.packbits(keep, axis=-1),
        score=score.astype(np.float16),
        threshold=threshold.astype(np.float32),
    )


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same text, position by position; or on two texts, at the tokens that stand for
    each other (P of them, below N).

    Args:
        kl: divergence of the second run's next-token distribution from the first's, nats, [N];
            None for an encoder.
        top1_agreement: the most likely next token is the same, bool [N]; None for an encoder.
        output_error: relative L2 distance of the final hidden states, [N].
        embedding_cosine: cosine of the two text embeddings (mean of the final hidden states).
    """

    kl: Array | None
    top1_agreement: Array | None
    output_error: Array
    embedding_cosine: float


def compare(first: Trace, second: Trace, alignment: Alignment | None = None) -> Comparison:
    """Compares what came out of two runs on the same tokens.

    Args:
        alignment: of two texts that differ; only tokens that stand for each other are compared.

    Raises:
        TraceError: the tokens differ and are not aligned, a trace holds no final states, or neither of two traces of a
            language model has its head (run one of them in this process).
    """
    if alignment is None and not np.array_equal(first.token_ids, second.token_ids):
        raise TraceError(
            f"the two traces are of different tokens ({first.keys} and {second.keys} of them)"
        )
    if first.hidden is None or second.hidden is None:
        raise TraceError("both traces need final hidden states; record them with saa_core.run")
    if first.hidden.shape[1] != second.hidden.shape[1]:
        raise TraceError(
            f"the two traces have states of {first.hidden.shape[1]} and {second.hidden.shape[1]} "
            "values; only models of one size can be compared"
        )
    states = first.hidden, second.hidden
    if alignment is not None:
        states = first.hidden[list(alignment.first)], second.hidden[list(alignment.second)]
    kl = same = None
    if first.top_ids is not None:
        heads = first.head or second.head, second.head or first.head
        kl, same = _next_tokens(heads, states)
    distance = np.linalg.norm(states[0] - states[1], axis=-1)
    size = np.linalg.norm(states[0], axis=-1)
    a, b = (trace.hidden.astype(np.float64).mean(0) for trace in (first, second))  # type: ignore[union-attr]
    return Comparison(
        kl=kl,
        top1_agreement=same,
        output_error=distance / np.maximum(size, 1e-12),
        embedding_cosine=float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)),
    )


def _next_tokens(
    heads: tuple[Callable[[Array], Array] | None, ...], states: tuple[Array, Array]
) -> tuple[Array, Array]:
    """(kl, top1_agreement) of the states of two language models, each through its own head."""
    if heads[0] is None or heads[1] is None:
        raise TraceError("one of the traces needs the model's head; run it in this process")
    kl = np.empty(len(states[0]), np.float32)
    same = np.empty(len(states[0]), bool)
    for start in range(0, len(kl), 128):
        part = slice(start, start + 128)
        a = _log_softmax(heads[0](states[0][part]))
        b = _log_softmax(heads[1](states[1][part]))
        kl[part] = (np.exp(a) * (a - b)).sum(-1)
        same[part] = a.argmax(-1) == b.argmax(-1)
    return np.maximum(kl, 0), same


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
