"""Whatever goes wrong on the sparse path is answered densely and counted; repeats open a breaker.

The guard and the fallbacks of the library are inside a step and stay what they are. Here is what the library does
not expect: an exception, numbers that are none, a step that takes too long, gates that are broken.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator

from saa_core.errors import PolicyError, SAAError, StoppedError, TextError
from saa_core.serve.jobs import Piece, RefusedError, TimeLimitError
from saa_core.serve.logs import frames
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Limits
from saa_core.serve.work.parts import DamagedError, NotFiniteError, Work

LOG = logging.getLogger("saa.serve")
STEP_TOKENS = 2048
"""Tokens for which a step gets the time of the limits once."""
Steps = Iterator[list[tuple[Work, Piece]]]
SHORT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad allocation",
    "bad_alloc",
    "failed to allocate",
)


class Group:
    """Requests that are computed together, and how far they are.

    Args:
        make: makes the steps.

    Attributes:
        sparse: the step that runs is one of the sparse path.
        overdue: the step takes too long and was asked to stop.
        abandoned: its thread was left behind; what it still does is of no interest.
    """

    expected = (RefusedError, TimeLimitError, PolicyError, TextError, StoppedError)
    """What requests may end with and no operator has to look at."""

    def __init__(self, works: list[Work], make: "Callable[[Group], Steps]") -> None:
        self.works, self.steps = works, make(self)
        self.since = 0.0
        self.sparse = self.overdue = self.abandoned = self.begun = False

    @property
    def gone(self) -> bool:
        """Nobody waits any more."""
        return all(work.done or work.ticket.left for work in self.works)

    def stopped(self) -> bool:
        """Asked between layers and tokens."""
        return self.abandoned or self.overdue or self.gone

    def allowed(self, limits: Limits) -> float:
        """Seconds that the step may take."""
        own = self.works[0].seconds
        if own is not None:
            return own
        tokens = sum(len(ids) for work in self.works for ids in work.ids)
        seconds = limits.sparse_seconds if self.sparse else limits.dense_seconds
        return seconds * max(1, math.ceil(tokens / STEP_TOKENS))

    def begin(self, metrics: Metrics) -> bool:
        """Notes when the first step began; True for that one."""
        if self.begun:
            return False
        self.begun, now = True, time.monotonic()
        for work in self.works:
            ticket = work.ticket
            if ticket.started is None:
                ticket.started = now
                metrics.queue.labels(ticket.model, ticket.op).observe(now - ticket.began)
        head, texts = self.works[0].ticket, sum(work.size for work in self.works)
        metrics.batch.labels(head.model, head.op).observe(texts)
        for work in self.works:
            work.ticket.facts["batch"] = texts
        return True

    def read(self, metrics: Metrics) -> None:
        """Notes how long the first step took."""
        ticket, spent = self.works[0].ticket, time.monotonic() - self.since
        metrics.prefill.labels(ticket.model, ticket.op, ticket.side).observe(spent)
        for work in self.works:
            work.ticket.facts["compute_ms"] = round(1000 * spent, 3)

    def end(self) -> None:
        """Lets go of what the steps hold."""
        close = getattr(self.steps, "close", None)
        if close is not None:
            close()

    def instead(self, metrics: Metrics) -> "Group | None":
        """The dense answer to a group whose sparse step hangs; None where it has no other.

        A hang counts also where nobody waits for the answer: the breaker's one trial may be this step.
        """
        if not self.sparse:
            return None
        _count_failure(self, "timeout", None)
        rest = [work for work in self.works if not work.done and not work.ticket.left]
        if not rest or any(work.begun for work in rest):
            return None
        return Group(rest, lambda group: _densely(group, "timeout", metrics))


def guarded(group: Group, metrics: Metrics) -> Steps:
    """The steps of a group: sparse where its breaker allows it, dense where that fails."""
    head = group.works[0]
    if head.sparse is None:
        yield from _densely(group, head.why_dense, metrics)
        return
    breaker = head.breaker
    if breaker is not None and not breaker.allows():
        yield from _densely(group, "breaker", metrics)
        return
    settled, reason = False, ""
    failure: Exception | None = None
    try:
        group.sparse = True
        for work in group.works:
            work.ticket.side = "sparse"
        for posts in head.sparse(group.works, group.stopped):
            if group.abandoned:
                return
            if breaker is not None and not settled:
                breaker.succeeded()
            settled, group.sparse = True, False
            for work, piece in posts:
                work.begun = work.begun or not piece.last
            yield posts
            group.sparse = not head.stream
        return
    except (PolicyError, TextError):
        raise
    except StoppedError as error:
        if not group.overdue:
            return
        reason, failure = "timeout", error
    except Exception as error:
        if out_of_memory(error):
            raise
        reason, failure = _reason(error), error
    finally:
        group.sparse = False
        left = group.abandoned  # its hang was counted, and another step may be on trial
        if breaker is not None and not settled and failure is None and not left:
            breaker.let_go()
    if group.abandoned or failure is None:
        return
    if any(work.begun for work in group.works):
        raise failure
    _count_failure(group, reason, failure)
    group.overdue, group.since = False, time.monotonic()
    yield from _densely(group, reason, metrics)


def _reason(error: Exception) -> str:
    """Of a failure, as a label of ``saa_fallbacks_total``."""
    if isinstance(error, DamagedError):
        return "damaged"
    return "nan" if isinstance(error, NotFiniteError) else "exception"


def _densely(group: Group, reason: str | None, metrics: Metrics) -> Steps:
    """The dense steps of what is not answered yet; a reason says why they are not sparse ones."""
    rest = [work for work in group.works if not work.done]
    for work in rest:
        work.ticket.side = "dense"
        if reason is not None:
            ticket = work.ticket
            ticket.facts["fallback"] = reason
            metrics.fell_back(ticket.model, ticket.op, reason, work.size)
    if rest:
        yield from rest[0].dense(rest, group.stopped)


def _count_failure(group: Group, reason: str, error: Exception | None) -> None:
    head = group.works[0]
    opened = head.breaker is not None and head.breaker.failed()
    about: dict[str, object] = {"model": head.ticket.model, "op": head.ticket.op, "reason": reason}
    if error is not None and not isinstance(error, SAAError):
        about |= {"error": type(error).__name__, "at": frames(error)}
    LOG.warning(
        "sparse path failed, answered densely", extra={"saa": about | {"breaker_opened": opened}}
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was short, on a CPU or a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in SHORT_OF_MEMORY)
