"""Who may run next: one at a time, visitors in turn, and what somebody waits for before what can wait.

Two runs at once would spoil each other's times, and end no earlier on the same cores.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LOOK = 0.1
"""Seconds after which who waits hears of its place again, and can leave."""


@dataclass(eq=False)
class _Ticket:
    visitor: object
    urgent: bool
    number: int


class Turns:
    """A lock with a fair order: urgent turns first; of them those of visitors who have the fewest before
    them in the queue; of these those of who was served longest ago."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[_Ticket] = []
        self._served: dict[object, int] = {}
        self._busy = False

    @contextmanager
    def take(
        self,
        visitor: object = None,
        *,
        urgent: bool = False,
        waiting: Callable[[int], None] | None = None,
    ) -> Iterator[None]:
        """Waits for a turn and holds it.

        Args:
            visitor: for whom; by default the calling thread.
            urgent: somebody looks at an empty page until this is done.
            waiting: called with the number of turns that come before, again and again while it waits. What
                it raises gives the turn up.
        """
        who = threading.get_ident() if visitor is None else visitor
        with self._changed:
            ticket = _Ticket(who, urgent, next(self._numbers))
            self._waiting.append(ticket)
        try:
            while (before := self._place(ticket)) >= 0:
                if waiting is not None:
                    waiting(before)
                with self._changed:
                    self._changed.wait(LOOK)
        except BaseException:
            with self._changed:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            raise
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def urgent_waiting(self) -> bool:
        """Whether somebody waits for something urgent."""
        with self._changed:
            return any(ticket.urgent for ticket in self._waiting)

    def _place(self, ticket: _Ticket) -> int:
        """How many come before a ticket, the one that runs included; -1: it is its turn, and it has it."""
        with self._changed:
            order = self._order()
            place = order.index(ticket)
            if self._busy or place:
                return place + self._busy
            self._waiting.remove(ticket)
            self._busy = True
            self._served.pop(ticket.visitor, None)
            self._served[ticket.visitor] = ticket.number
            for old in list(self._served)[:-1000]:
                del self._served[old]
            return -1

    def _order(self) -> list[_Ticket]:
        own = Counter[tuple[object, bool]]()
        ranked = []
        for ticket in self._waiting:  # in the order in which they came
            before = own[ticket.visitor, ticket.urgent]
            own[ticket.visitor, ticket.urgent] += 1
            served = self._served.get(ticket.visitor, -1)
            ranked.append(((not ticket.urgent, before, served, ticket.number), ticket))
        return [ticket for _, ticket in sorted(ranked, key=lambda each: each[0])]
