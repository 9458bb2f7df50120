"""What a user sets and what was measured: values that cross module borders. Frozen, validated where
they are made; they need no PyTorch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from saa_core.errors import PolicyError, choice
from saa_core.timings import Timing as Timing
from saa_core.timings import quartiles as quartiles

GRANULARITIES = ("auto", "block", "pair")
FALLBACKS = ("auto", "dense", "never")
BUDGET_CHOICES = ("layer", "call")
DEFAULT_MASS = 0.95
PAIR_LIMIT = 512
"""Texts up to this many tokens are decided pair by pair under ``granularity="auto"``."""
DEFAULT_TAIL = 64
"""Last queries of a longer text that see every key, in a language model: what is lost where a prompt is read
sparsely is lost in the rows that ask (docs/decisions.md)."""
BEFORE_DEFAULTS: Mapping[str, Any] = {"tail": 0, "fallback": "never"}
"""What a stored policy that lacks these fields meant when it was written."""

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


Progress = Callable[[int, int], None]
"""Called with (done, total)."""
StepProgress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


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
            what the bound needs at least. Fewer than it needs are refused where the number of layers
            is known: when a model runs.
        seed: of the draw.
        margin: classification: where the two most probable labels are less than this apart in
            probability, the task's reference model answers instead. In [0, 1]; 0 never asks it, 1 always.

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
    """Settings of one call.

    Args:
        mass: share of the predicted attention mass to keep in each row, in (0, 1]; 1.0 keeps all.
            It is meant on average over the layers: a calibrated gate gives sensitive layers more.
            With ``budget`` it is set at most once. Where neither is, the gates say a mass for the text's
            length (:class:`saa_core.gates.defaults.MassTable`), and 0.95 where they hold none.
        budget: share of the allowed pairs to compute at most, in (0, 1], sink, local and tail included, of
            which there may be more.
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
        fallback: "auto" computes a text densely where this machine was measured to gain nothing at its
            length (``saa measure --profile``), of calls that record nothing: what is to be looked at is
            decided. "dense" computes texts of fewer than ``crossover`` tokens densely; the trace says
            so. "never" always decides.
        crossover: length in tokens from which deciding is faster than dense attention, as measured.
        tokens: share of the token work that an encoder with token gates aims at on average over
            texts, in (0, 1]; an easy text may need less and a hard one more. None drops no token.
        tail: number of last queries that see every key, in tokens: the end of a prompt, where the
            question stands from which a reply is written. None is ``DEFAULT_TAIL`` in language models
            where a text has more than ``PAIR_LIMIT`` tokens, and else 0. What is read in parts, over a
            cache, ends in each of them; a single token that is written later is such an end.
        guard: checks and corrects every request; None trusts the gate.
        default_at: where the gates said the mass (:meth:`resolved`): for which length in tokens.

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
    fallback: Literal["auto", "dense", "never"] = "auto"
    crossover: int = 1024
    tokens: float | None = None
    tail: int | None = None
    guard: Guard | None = None
    default_at: int | None = None

    def __post_init__(self) -> None:
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
            unset = name == "tail" and value is None
            if not unset and not (isinstance(value, int) and value >= least):
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
        """The rule, what it aims at, and a tail, for example "mass 0.95, tail 64" or "mass 1, tokens
        0.5"."""
        tokens = "" if self.tokens is None else f", tokens {self.tokens:g}"
        tail = f", tail {self.tail}" if self.tail else ""
        guard = "" if self.guard is None else str(self.guard)
        default = "" if self.default_at is None else f" (default at {self.default_at:,} tokens)"
        aim = f"{self.rule_name} {self.aim:g}{default}" if self.aims else "default mass"
        return f"{aim}{tokens}{tail}{guard}"

    @property
    def asked(self) -> str:
        """The same of what was asked for, whatever the gates said for a text's length."""
        return str(self if self.default_at is None else replace(self, mass=None, default_at=None))

    @classmethod
    def stored(cls, about: Mapping[str, Any]) -> "Policy":
        """A policy as a file holds it. It keeps its meaning: fields that the file lacks are what they were
        before there were such fields.

        Raises:
            PolicyError, TypeError: a value or a name cannot be used.
        """
        aimed = "mass" in about or about.get("budget") is not None
        return cls(**{**BEFORE_DEFAULTS, **({} if aimed else {"mass": DEFAULT_MASS}), **about})

    def resolved(self, length: int, *, causal: bool, mass: float | None = None) -> "Policy":
        """The same policy with numbers for what is left to a default.

        Args:
            length: of the text that is read, in tokens, with what a cache holds of it.
            causal: the model is a language model.
            mass: what the gates say for this length; None where they say nothing.
        """
        found = self
        if self.tail is None:
            tail = DEFAULT_TAIL if causal and length > PAIR_LIMIT else 0
            found = replace(found, tail=tail)
        if not self.aims:
            at = None if mass is None else length
            found = replace(found, mass=DEFAULT_MASS if mass is None else mass, default_at=at)
        return found

    @property
    def rule_name(self) -> str:
        """Name of the rule that turns scores into a decision, a key of ``rules.RULES``."""
        if self.rule != "auto":
            return self.rule
        return "mass" if self.budget is None else "budget"

    @property
    def aims(self) -> bool:
        """False where what the rule aims at is left to the gates and the text's length."""
        return self.mass is not None or self.budget is not None

    @property
    def aim(self) -> float:
        """What the rule aims at: the mass, or the budget.

        Raises:
            PolicyError: it is left to the gates' default.
        """
        value = self.mass if self.budget is None else self.budget
        if value is None:
            raise PolicyError(
                "mass=None is left to the default of the gates and a text; resolve it"
            )
        return value

    def with_aim(self, rule: str, aim: float) -> "Policy":
        """The same policy that aims at another value, under the same rule or another.

        Args:
            rule: "mass" or "budget".
            aim: see :class:`Policy` under that name.

        Raises:
            PolicyError: the rule is not known, or the value is out of its range.
        """
        if rule not in ("mass", "budget"):
            raise PolicyError(choice("rule", rule, ("mass", "budget")))
        values: dict[str, float | None] = {"mass": None, "budget": None} | {rule: aim}
        named = self.rule if rule == self.rule_name else "auto"
        aimed = replace(self, mass=values["mass"], budget=values["budget"], rule=named)
        return replace(aimed, default_at=None)

    def decided(self) -> "Policy":
        """The same policy, which decides every text: what a figure of its decisions is measured with."""
        return replace(self, fallback="never") if self.fallback == "auto" else self

    def falls_back(self, length: int) -> bool:
        """True where ``fallback="dense"`` computes a text of ``length`` tokens densely."""
        return self.fallback == "dense" and length < self.crossover

    def block_for(self, length: int) -> tuple[int, int]:
        """(queries, keys) per decided block for a text of ``length`` tokens; (1, 1) is pair by pair."""
        pairwise = self.granularity == "pair" or (
            self.granularity == "auto" and length <= PAIR_LIMIT
        )
        return (1, 1) if pairwise else self.block


@dataclass(frozen=True)
class Prediction:
    """The label of one text, and what it cost.

    Args:
        label: the most probable one.
        probabilities: by label, in the task's order; they sum to 1.
        tokens: length of the text, special tokens included.
        token_share: tokens computed / tokens, mean over layers; 1 is dense.
        flops_share: floating-point operations of all layers, token gates included, against dense;
            over 1 where the reference model was asked as well. What single dropped pairs save is not
            counted.
        dense: True where the reference model answered: a guard had it answer, or dropping tokens gains
            no time at this length (``Policy.fallback``).
    """

    label: str
    probabilities: dict[str, float]
    tokens: int
    token_share: float
    flops_share: float
    dense: bool = False
