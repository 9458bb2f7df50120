"""Value objects that cross module borders. Frozen, validated where they are made.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, M, S query and key blocks.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from saa_core.errors import PolicyError, choice

GRANULARITIES = ("auto", "block", "pair")
FALLBACKS = ("never", "dense")
BUDGET_CHOICES = ("layer", "call")
DEFAULT_MASS = 0.95
PAIR_LIMIT = 512
"""Texts up to this many tokens are decided pair by pair under ``granularity="auto"``."""

REASONS = (
    *("not allowed", "below", "gate", "sink", "local", "dense", "forced", "excluded"),
    *("token", "tail", "probe"),
)
"""Reason codes are indices into this tuple, and stay so: stored traces hold them."""
NOT_ALLOWED, BELOW, GATE, SINK, LOCAL, DENSE, FORCED, EXCLUDED, TOKEN, TAIL, PROBE = range(
    len(REASONS)
)
KEPT = (GATE, SINK, LOCAL, DENSE, FORCED, TAIL, PROBE)
"""Reasons for which a pair is kept; the others say why it is not."""


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Force:
    """Pairs that a person keeps or excludes, whatever the gate says.

    None is every layer, head, query or key: ``Force(key=5)`` keeps token 5 for everybody,
    ``Force(layer=3, head=1, keep=False)`` excludes a head. Where blocks are decided, the blocks
    that hold such a pair follow. A query's own position is never excluded.

    Args:
        keep: True keeps the pairs, False excludes them.
        layer, head: indices from 0.
        query, key: positions of tokens from 0; a pair of positions is a stretch, both included.

    Raises:
        PolicyError: an index is negative or no whole number, or a stretch ends before it begins.
    """

    keep: bool = True
    layer: int | None = None
    head: int | None = None
    query: int | tuple[int, int] | None = None
    key: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("layer", "head", "query", "key"):
            value = getattr(self, name)
            if name in ("query", "key") and isinstance(value, (tuple, list)):
                value = tuple(value)  # a list as stored with a trace
                object.__setattr__(self, name, value)
                if not (len(value) == 2 and all(map(_whole, value)) and value[0] <= value[1]):
                    raise PolicyError(
                        f"{name}={value!r} must be the first and last position of a stretch"
                    )
            elif value is not None and not _whole(value):
                raise PolicyError(
                    f"{name}={value!r} must be a whole number from 0, or None for all"
                )

    def stretch(self, name: Literal["query", "key"]) -> tuple[int, int] | None:
        """First and last position of the queries or keys; None is all."""
        value: int | tuple[int, int] | None = getattr(self, name)
        return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Guard:
    """Checks each request and corrects it: attention by the exact one of some random queries
    (guard.py), and a label by how sure it is.

    Args:
        missed_mass: limit of the request's mean missed mass: the share of the true attention that is
            not computed, mean over layers, heads and queries. In (0, 1); None does not look at it,
            and has to be given where whole tokens are dropped.
        delta: how often a request over the limit may pass unnoticed, in (0, 1).
        rows: queries per layer that count, half as many look for faults; None takes sixteen times
            what the bound needs at least.
        seed: of the draw.
        margin: classification: where the two most probable labels are less than this apart in
            probability, the task's dense side answers instead. In [0, 1]; 0 never asks it, 1 always.

    Raises:
        PolicyError: a value is outside its range, or nothing is checked.
    """

    missed_mass: float | None = 0.05
    delta: float = 0.05
    rows: int | None = None
    seed: int = 0
    margin: float = 0.0

    def __post_init__(self) -> None:
        for name in ("missed_mass", "delta"):
            value = getattr(self, name)
            unset = name == "missed_mass" and value is None
            if not unset and not (isinstance(value, (int, float)) and 0.0 < value < 1.0):
                raise PolicyError(f"{name}={value!r} must be a number between 0 and 1")
        if not (isinstance(self.margin, (int, float)) and 0.0 <= self.margin <= 1.0):
            raise PolicyError(f"margin={self.margin!r} must be a number from 0 to 1")
        if self.missed_mass is None and not self.margin:
            raise PolicyError("missed_mass=None and margin=0 check nothing; set one of them")
        if self.rows is not None and not (isinstance(self.rows, int) and self.rows >= 1):
            raise PolicyError(f"rows={self.rows!r} must be a whole number of queries >= 1, or None")

    def __str__(self) -> str:
        """As the end of a policy's name, for example ", guard 0.05" or ", margin 0.3"."""
        guard = "" if self.missed_mass is None else f", guard {self.missed_mass:g}"
        return guard + (f", margin {self.margin:g}" if self.margin else "")

    def rows_for(self, layers: int) -> int:
        """Queries per layer that count."""
        if self.rows is not None:
            return self.rows
        assert self.missed_mass is not None
        least = math.log(1 / self.delta) / -math.log1p(-self.missed_mass)
        return math.ceil(16 * least / layers)


@dataclass(frozen=True)
class Policy:
    """What a user may move per call.

    Args:
        mass: share of the predicted attention mass to keep in each row, in (0, 1]; 1.0 keeps all.
            It is meant on average over the layers: a calibrated gate gives sensitive layers more.
            Exactly one of ``mass`` and ``budget`` is set; mass 0.95 if neither is given.
        budget: share of the allowed pairs to compute at most, in (0, 1], sink and local included.
        budget_over: "layer" gives every layer the same budget, "call" gives each layer what the
            gate's calibration says that it needs, with the budget as their mean.
        granularity: "pair", "block", or "auto" (pair by pair up to 512 tokens, blocks above).
        block: (queries, keys) per block in tokens, where blocks are decided.
        sink: number of first keys that are always kept, in tokens.
        local: number of nearest keys that are always kept, in tokens, the query itself included.
        force: pairs kept or excluded by a person; later entries win over earlier ones.
        kernel: what executes the decision, a key of ``kernels.KERNELS``; "auto" takes the fastest
            that works here.
        rule: what turns scores into a decision, a key of ``rules.RULES``; "auto" is the one named
            like the value that is set, "mass" or "budget".
        fallback: "dense" computes texts of fewer than ``crossover`` tokens densely, because nothing
            is gained there; the trace says so. "never" always decides.
        crossover: length in tokens from which deciding is faster than dense attention, as measured.
        tokens: share of the token work that an encoder with token gates aims at on average over
            texts, in (0, 1]; an easy text may need less and a hard one more. None drops no token.
        tail: number of last queries that see every key, in tokens: the end of a prompt, where the
            question stands from which a reply is written.
        guard: checks and corrects every request; None trusts the gate.

    Raises:
        PolicyError: a value is outside its range. Names of kernels and rules are checked when a
            call is made.
    """

    mass: float | None = None
    granularity: Literal["auto", "pair", "block"] = "auto"
    block: tuple[int, int] = (32, 16)
    sink: int = 4
    local: int = 16
    kernel: str = "auto"
    budget: float | None = None
    budget_over: Literal["layer", "call"] = "layer"
    force: tuple[Force, ...] = ()
    rule: str = "auto"
    fallback: Literal["never", "dense"] = "never"
    crossover: int = 1024
    tokens: float | None = None
    tail: int = 0
    guard: Guard | None = None

    def __post_init__(self) -> None:
        if self.mass is None and self.budget is None:
            object.__setattr__(self, "mass", DEFAULT_MASS)
        if self.mass is not None and self.budget is not None:
            raise PolicyError(
                f"mass={self.mass!r} and budget={self.budget!r} exclude each other; set one, and the "
                "other to None"
            )
        for name, example in (("mass", 0.95), ("budget", 0.4), ("tokens", 0.6)):
            value = getattr(self, name)
            valid = isinstance(value, (int, float)) and 0.0 < value <= 1.0
            if value is not None and not valid:
                raise PolicyError(
                    f"{name}={value!r} must be a number in (0, 1], for example {example}"
                )
        if self.budget_over not in BUDGET_CHOICES:
            raise PolicyError(choice("budget_over", self.budget_over, BUDGET_CHOICES))
        if self.fallback not in FALLBACKS:
            raise PolicyError(choice("fallback", self.fallback, FALLBACKS))
        if self.granularity not in GRANULARITIES:
            raise PolicyError(choice("granularity", self.granularity, GRANULARITIES))
        if not (
            isinstance(self.block, (tuple, list))
            and len(self.block) == 2
            and all(isinstance(size, int) and 1 <= size <= 1024 for size in self.block)
        ):
            raise PolicyError(
                f"block={self.block!r} must be two whole numbers of tokens (queries, keys), "
                "each from 1 to 1024, for example (32, 16)"
            )
        object.__setattr__(self, "block", tuple(self.block))
        for name, least in (("sink", 0), ("local", 1), ("crossover", 0), ("tail", 0)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least):
                raise PolicyError(f"{name}={value!r} must be a whole number of tokens >= {least}")
        guard: object = self.guard
        if isinstance(guard, Mapping):  # as stored with a trace
            object.__setattr__(self, "guard", Guard(**guard))
        elif guard is not None and not isinstance(guard, Guard):
            raise PolicyError(f"guard={guard!r} must be a saa_core.Guard, or None")
        try:
            entries = tuple(Force(**x) if isinstance(x, Mapping) else x for x in self.force)
        except TypeError as error:
            raise PolicyError(f"force={self.force!r}: {error}") from error
        if not all(isinstance(entry, Force) for entry in entries):
            raise PolicyError(f"force={self.force!r} must be a sequence of saa_core.Force")
        object.__setattr__(self, "force", entries)
        probed = self.guard is not None and self.guard.missed_mass is not None
        if probed and self.tokens is not None:
            raise PolicyError(
                f"guard={self.guard!r}: where whole tokens are dropped no attention is probed; leave "
                "tokens out, or set the guard's missed_mass to None and a margin"
            )
        if probed and not all(entry.keep for entry in entries):
            raise PolicyError(
                "force: pairs cannot be excluded under a guard, which would bring them back; leave "
                "one of the two out"
            )

    def __str__(self) -> str:
        """The rule and what it aims at, for example "mass 0.95" or "mass 1, tokens 0.5"."""
        tokens = "" if self.tokens is None else f", tokens {self.tokens:g}"
        return f"{self.rule_name} {self.aim:g}{tokens}{'' if self.guard is None else self.guard}"

    @property
    def rule_name(self) -> str:
        """Name of the rule that turns scores into a decision, a key of ``rules.RULES``."""
        if self.rule != "auto":
            return self.rule
        return "mass" if self.budget is None else "budget"

    @property
    def aim(self) -> float:
        """What the rule aims at: the mass, or the budget."""
        value = self.mass if self.budget is None else self.budget
        assert value is not None
        return value

    def falls_back(self, length: int) -> bool:
        """True where a text of ``length`` tokens is computed densely instead."""
        return self.fallback == "dense" and length < self.crossover

    def block_for(self, length: int) -> tuple[int, int]:
        """(queries, keys) per decided block for a text of ``length`` tokens; (1, 1) is pair by pair."""
        pairwise = self.granularity == "pair" or (
            self.granularity == "auto" and length <= PAIR_LIMIT
        )
        return (1, 1) if pairwise else self.block


@dataclass(frozen=True)
class Allowed:
    """The pairs that the dense model would compute, for one call.

    Args:
        queries, keys: lengths in tokens. The queries are the last ones of the keys.
        causal: a query sees no later key.
        mask: bool [B, 1, Q, K] with True where a pair is allowed; it replaces ``causal``.
            None where the rule alone says it (no padding).
        bounds: first and last key that each query sees, int32 [B or 1, Q] each, in place of both:
            texts that stand behind each other.
    """

    queries: int
    keys: int
    causal: bool
    device: torch.device
    mask: Tensor | None = None
    bounds: tuple[Tensor, Tensor] | None = None

    @cached_property
    def pairs(self) -> Tensor:
        """bool [B or 1, 1, Q, K]."""
        if self.mask is not None:
            return self.mask
        if self.bounds is not None:
            first, last = (bound[:, None, :, None] for bound in self.bounds)
            keys = torch.arange(self.keys, device=self.device)
            return (keys >= first) & (keys <= last)
        q = torch.arange(self.keys - self.queries, self.keys, device=self.device)[:, None]
        k = torch.arange(self.keys, device=self.device)
        allowed = q >= k if self.causal else torch.ones_like(q >= k)
        return allowed[None, None]

    @cached_property
    def seen_keys(self) -> Tensor | None:
        """Keys that any query may see, bool [B, K]; None is all."""
        return None if self.mask is None else self.mask.any(2)[:, 0]

    @cached_property
    def real_queries(self) -> Tensor:
        """Queries that are tokens of a text, bool [B or 1, Q]. Padding may see keys, but nobody sees it."""
        if self.seen_keys is None:
            return torch.ones(1, self.queries, dtype=torch.bool, device=self.device)
        return self.seen_keys[:, self.keys - self.queries :]

    @cached_property
    def intervals(self) -> tuple[Tensor, Tensor] | None:
        """First and last visible key of each query, int32 [B or 1, Q] each (last < first: none).

        None if some query sees keys with a gap in between, which no padding or window makes.
        """
        if self.bounds is not None:
            return self.bounds
        k = torch.arange(self.keys, device=self.device, dtype=torch.int32)
        if self.mask is None:
            q = torch.arange(self.queries, device=self.device, dtype=torch.int32)
            last = q + (self.keys - self.queries) if self.causal else q * 0 + self.keys - 1
            return torch.zeros_like(last)[None], last[None]
        seen = self.mask[:, 0]
        first = seen.int().argmax(-1).int()
        last = first + seen.sum(-1, dtype=torch.int32) - 1
        spans = (k >= first[..., None]) & (k <= last[..., None])
        return (first, last) if bool((spans == seen).all()) else None

    def count(self, block: tuple[int, int]) -> Tensor:
        """Allowed pairs per block, int32 [B or 1, 1, M, S]."""
        bq, bk = block
        if block == (1, 1):
            return self.pairs.int()
        M, S = math.ceil(self.queries / bq), math.ceil(self.keys / bk)
        if self.mask is None and self.bounds is None:
            return self._count_by_rule(block, M, S)
        padded = torch.nn.functional.pad(
            self.pairs, (0, S * bk - self.keys, 0, M * bq - self.queries)
        )
        return padded.view(-1, 1, M, bq, S, bk).sum((3, 5), dtype=torch.int32)

    def _count_by_rule(self, block: tuple[int, int], M: int, S: int) -> Tensor:
        bq, bk = block
        q = torch.arange(M * bq, device=self.device)
        start = torch.arange(S, device=self.device) * bk
        end = (start + bk).clamp(max=self.keys)
        last = q[:, None] + (self.keys - self.queries) + 1 if self.causal else end[None]
        visible = (torch.minimum(end[None], last) - start).clamp(min=0)
        visible = visible.expand(M * bq, S) * (q < self.queries)[:, None]
        return visible.view(M, bq, S).sum(1, dtype=torch.int32)[None, None]


@dataclass(frozen=True)
class Decision:
    """Which blocks of pairs are kept, in one layer. Never depends on how it is executed.

    Args:
        block: (queries, keys) per block in tokens; (1, 1) is pair by pair.
        keep: bool [B, H, M, S]; only blocks with at least one allowed pair.
        score: predicted mass of each block, averaged over its queries, [B, H, M, S].
        threshold: a block that is not forced is kept if its score reaches this, [B, H, M].
        forced: reason code per block that is kept in any case, or EXCLUDED or TOKEN; uint8
            [B or 1, 1 or H, M, S], 0 = none.
        count: allowed pairs per block, int32 [B or 1, 1, M, S].
        target: what the rule aimed at in this layer, calibration included; NaN if unknown.
    """

    block: tuple[int, int]
    keep: Tensor
    score: Tensor
    threshold: Tensor
    forced: Tensor
    count: Tensor
    target: float = math.nan

    @property
    def density(self) -> Tensor:
        """Kept share of the allowed pairs, [B, H]."""
        kept = (self.keep * self.count).sum((2, 3), dtype=torch.float64)
        return (kept / self.count.sum((2, 3)).clamp(min=1)).float()

    @property
    def predicted_mass(self) -> Tensor:
        """The gate's estimate of the kept share of attention mass, mean over rows, [B, H]."""
        return self.row_mean(self.predicted_rows)

    @property
    def predicted_rows(self) -> Tensor:
        """The gate's estimate of the kept share of attention mass, by query block, [B, H, M]."""
        return (self.score * self.keep).sum(3)

    def row_mean(self, value_BHM: Tensor) -> Tensor:
        """Mean over the query blocks in which any pair is allowed, [B, H]."""
        rows = (self.count.sum(3) > 0).float()
        return (value_BHM * rows).sum(2) / rows.sum(2).clamp(min=1)

    def pair_keep(self, allowed: Allowed) -> Tensor:
        """The decision as single pairs, bool [B, H, Q, K]."""
        return expand(self.keep, self.block, allowed.queries, allowed.keys) & allowed.pairs


def expand(blocks: Tensor, block: tuple[int, int], queries: int, keys: int) -> Tensor:
    """[..., M, S] per block to [..., Q, K] per pair."""
    if block == (1, 1):
        return blocks
    wide = blocks.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return wide[..., :queries, :keys]


@dataclass(frozen=True)
class Timing:
    """Measured wall times of one policy at one length; raw samples, never only their mean.

    Args:
        name: "dense" or a description of the policy.
        length: tokens.
        samples_ms: whole forward pass, ms, one per round; rounds are interleaved with the others'.
        attention_ms: attention in all layers, gate and rule included, ms, one per round.
        stages_ms: median ms per stage of the attention ("gate", "rule", "kernel" or "dense").
        device, dtype, threads, kernel, versions: what ran.
        compile_ms: time spent compiling before the rounds, not part of any sample.
        peak_bytes: highest memory of the process (CPU) or the device during the rounds, if known.
        density: kept / allowed pairs in the warm-up, 1.0 for dense; None without a warm-up.
    """

    name: str
    length: int
    samples_ms: tuple[float, ...]
    attention_ms: tuple[float, ...]
    stages_ms: dict[str, float]
    device: str
    dtype: str
    threads: int
    kernel: str
    compile_ms: float
    peak_bytes: int | None
    versions: dict[str, str]
    density: float | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples_ms", tuple(self.samples_ms))
        object.__setattr__(self, "attention_ms", tuple(self.attention_ms))

    @property
    def median_ms(self) -> float:
        return quartiles(self.samples_ms)[1]

    def ratio(self, dense: "Timing", what: str = "samples_ms") -> tuple[float, float, float]:
        """How many times faster than ``dense``: quartiles of the ratios of neighbouring samples.

        Args:
            what: "samples_ms" (whole forward pass) or "attention_ms".
        """
        pairs = zip(getattr(dense, what), getattr(self, what), strict=True)
        return quartiles([slow / fast for slow, fast in pairs])


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(samples) == 1:
        return (samples[0],) * 3
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high
