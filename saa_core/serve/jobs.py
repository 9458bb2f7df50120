"""One request on its way through the process: admitted, waiting, worked on, answered or given up.

The event loop owns a ticket; the model's thread reads whether it is cancelled and posts what came out.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from saa_core.errors import SAAError
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Limits

LONGEST_WAIT = 60
"""Seconds of a Retry-After at most."""
START_RATE = 500.0
"""Tokens per second that are assumed before anything was measured."""


class RefusedError(SAAError):
    """A request that is not taken now.

    Args:
        reason: a label of ``saa_requests_rejected_total``.
        status: of HTTP.
        retry_after: seconds.
    """

    def __init__(self, message: str, reason: str, status: int, retry_after: int | None) -> None:
        super().__init__(message)
        self.reason, self.status, self.retry_after = reason, status, retry_after


class TimeLimitError(SAAError):
    """A request that took longer than it may."""


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer, or all of it; ``last`` ends it."""

    value: Any
    last: bool = True


@dataclass(eq=False)
class Ticket:
    """An admitted request.

    Args:
        number: ascending, for logs.
        tokens: of its prompt: estimated, then counted.
        gone: set when its client went away.
        deadline: on the monotonic clock.
        facts: what the log and the answer say about it.
    """

    number: int
    model: str
    op: str
    tokens: int
    gone: asyncio.Event
    deadline: float
    began: float
    loop: asyncio.AbstractEventLoop
    cancelled: bool = False
    started: float | None = None
    side: str = "dense"
    facts: dict[str, Any] = field(default_factory=dict)
    _events: asyncio.Queue[Piece | BaseException] = field(default_factory=asyncio.Queue)

    @property
    def left(self) -> bool:
        """Nobody waits any more; asked by the model's thread."""
        return self.cancelled or self.gone.is_set()

    def post(self, event: "Piece | BaseException") -> None:
        """From the model's thread."""
        if not self.cancelled:
            self.loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Any]:
        """What comes out, piece by piece.

        Raises:
            ClientGoneError, TimeLimitError: nobody waits, or the time is over; the ticket has to be closed.
            Exception: what the work ended with.
        """
        leaving = asyncio.ensure_future(self.gone.wait())
        try:
            while True:
                arriving = asyncio.ensure_future(self._events.get())
                left = self.deadline - time.monotonic()
                done, _ = await asyncio.wait(
                    (arriving, leaving), timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED
                )
                if arriving not in done:
                    arriving.cancel()
                    if leaving in done:
                        raise ClientGoneError
                    raise TimeLimitError("the request took longer than this server allows")
                event = arriving.result()
                if isinstance(event, BaseException):
                    raise event
                yield event.value
                if event.last:
                    return
        finally:
            leaving.cancel()

    async def result(self) -> Any:
        """The whole answer, where it is one piece."""
        async for value in self.events():
            return value
        raise AssertionError("the work ended without an answer")


class Admission:
    """Counts what is in the process, and refuses more than the limits. Of the event loop alone."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.requests = self.tokens = 0
        self.draining = False
        self.rate = START_RATE
        self._numbers = itertools.count(1)

    def admit(self, model: str, op: str, tokens: int, gone: asyncio.Event) -> Ticket:
        """A ticket for a request of about so many prompt tokens.

        Raises:
            RefusedError: the process has enough to do, or is about to end.
        """
        if self.draining:
            raise self.refuse("this server is about to stop", "draining", 503, 5)
        if self.requests >= self.limits.waiting:
            raise self.refuse("too many requests wait", "requests", 429, self.backlog())
        if self.requests and self.tokens + tokens > self.limits.waiting_tokens:
            raise self.refuse("too many tokens wait", "tokens", 429, self.backlog())
        now = time.monotonic()
        self.requests, self.tokens = self.requests + 1, self.tokens + tokens
        self.metrics.waiting_tokens.set(self.tokens)
        return Ticket(
            number=next(self._numbers),
            model=model,
            op=op,
            tokens=tokens,
            gone=gone,
            deadline=now + self.limits.request_seconds,
            began=now,
            loop=asyncio.get_running_loop(),
        )

    def refuse(
        self, message: str, reason: str, status: int, retry_after: int | None
    ) -> RefusedError:
        self.metrics.rejected.labels(reason).inc()
        return RefusedError(message, reason, status, retry_after)

    def counted(self, ticket: Ticket, tokens: int) -> None:
        """Puts the tokens in the place of their estimate."""
        self.tokens += tokens - ticket.tokens
        ticket.tokens = tokens

    def close(self, ticket: Ticket) -> None:
        """The request is over, whichever way; work that goes on for it stops."""
        if ticket.cancelled:
            return
        ticket.cancelled = True
        self.requests, self.tokens = self.requests - 1, self.tokens - ticket.tokens
        self.metrics.waiting_tokens.set(self.tokens)

    def measured(self, tokens: int, seconds: float) -> None:
        """Learns how fast prompts are read."""
        if seconds > 0:
            self.rate = 0.8 * self.rate + 0.2 * tokens / seconds

    def backlog(self) -> int:
        """Seconds until what is in the process is done, for Retry-After."""
        return max(1, min(LONGEST_WAIT, math.ceil(self.tokens / max(self.rate, 1.0))))


def estimated_tokens(text: str) -> int:
    """Of a text that was not tokenized: a token has some three bytes or more in most texts."""
    return len(text.encode("utf-8", "replace")) // 3 + 2
