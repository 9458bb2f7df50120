"""What a page asks a client for, and what it gets: frozen values."""

from dataclasses import dataclass, field
from typing import Any

import saa_core as saa
from saa_core.attention.profiles import Verdict
from saa_core.explain.difference import Difference
from saa_core.run.timing import TimedRun
from saa_core.trace.align import Alignment


@dataclass(frozen=True)
class Request:
    """What one press of the button asks for."""

    model: str
    text: str
    policy: saa.Policy


@dataclass(frozen=True, eq=False)
class Result:
    """What came out, live or recorded. None is what this kind of result does not have, or not yet:
    times follow when the rest is on the page. ``flops_share`` is of a task: the operations of SAA's
    layers against those of dense. ``rounds`` is how many rounds of the clock the times will have in the end. ``verdict`` is what
    this machine's profiles say of such a text where nothing is looked at. ``runs`` are passes of
    (dense, SAA) each: first the recorded ones, whose times stand until the first round of the clock, then its rounds. ``compared_at`` are the positions at which next
    tokens were compared so far; None: at all of them."""

    trace: saa.Trace
    request: Request | None = None
    spec: saa.Spec | None = None
    dense: saa.Trace | None = None
    comparison: saa.Comparison | None = None
    dense_timing: saa.Timing | None = None
    timing: saa.Timing | None = None
    dense_words: str | None = None
    words: str | None = None
    flops_share: float | None = None
    rounds: int | None = None
    recorded_as: str | None = None
    verdict: Verdict | None = None
    runs: tuple[tuple[TimedRun, TimedRun], ...] = ()
    compared_at: tuple[int, ...] | None = None
    keep_alive: Any = field(default=None, repr=False)

    @property
    def rounds_done(self) -> int:
        """Rounds of the clock so far, without the recorded passes."""
        return max(len(self.runs) - 1, 0)

    @property
    def rounds_left(self) -> int:
        """Rounds of the clock that are still to come."""
        return 0 if self.rounds is None else self.rounds - self.rounds_done

    @property
    def complete(self) -> bool:
        """Nothing is still to come."""
        return self.rounds_left <= 0 and self.compared_at is None


@dataclass(frozen=True)
class Side:
    """One of two runs that are compared; policy None is dense, by the original model."""

    model: str
    text: str
    policy: saa.Policy | None


@dataclass(frozen=True, eq=False)
class Compared:
    """Two runs and what differs. ``output`` and ``decisions`` are None where the two models cannot be
    laid over each other. ``next_words`` are the likeliest next tokens of both at each aligned token."""

    sides: tuple[Side, Side]
    traces: tuple[saa.Trace, saa.Trace]
    alignment: Alignment | None
    output: saa.Comparison | None
    decisions: Difference | None
    next_words: tuple[tuple[str, ...], tuple[str, ...]] | None


@dataclass(frozen=True)
class GuardTrial:
    """What is tried on a text: its run again, with a guard and without, and maybe a damaged gate.

    Args:
        damage: one of saa_core.explain.damage.KINDS; None is the gate as it is.
    """

    request: Request
    guard: saa.Guard
    damage: str | None = None


@dataclass(frozen=True, eq=False)
class GuardTrialResult:
    """What came out of a trial; ``alike`` is the agreement with dense of (blind, guarded): the share of
    positions with the same most likely next token, or the cosine of the embeddings of an encoder."""

    trial: GuardTrial
    blind: saa.Trace
    guarded: saa.Trace
    alike: tuple[float, float]
    blind_timing: saa.Timing
    guarded_timing: saa.Timing
