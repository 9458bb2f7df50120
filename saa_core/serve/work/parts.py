"""A piece of work, and batches: texts of several requests computed together, answered one by one."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saa_core.errors import SAAError
from saa_core.serve.jobs import Piece, Ticket
from saa_core.serve.work.breaker import Breaker

Cancelling = Callable[[], bool]


class NotFiniteError(SAAError):
    """What came out holds numbers that are none."""


class DamagedError(SAAError):
    """The gates are not those that were loaded."""


@dataclass(eq=False)
class Work:
    """What the model is to do for a ticket.

    Args:
        sparse, dense: make the steps for works of one key; ``sparse`` is None where none is asked for or may
            be. They are given the works and what says that nobody waits.
        key: works of the same one are computed together; None is computed alone.
        ids: token ids of each text.
        stream: answers in many steps, which take turns with others.
        breaker: of the sparse path.
        why_dense: why there is no ``sparse`` although a policy was asked for; a label of
            ``saa_fallbacks_total``.
        seconds: that a step may take, where it is not as for all.
    """

    ticket: Ticket
    dense: "Callable[[Sequence[Work], Cancelling], Iterator[list[tuple[Work, Piece]]]]"
    sparse: "Callable[[Sequence[Work], Cancelling], Iterator[list[tuple[Work, Piece]]]] | None" = (
        None
    )
    key: Hashable | None = None
    ids: Sequence[Sequence[int]] = ()
    stream: bool = False
    breaker: Breaker | None = None
    why_dense: str | None = None
    seconds: float | None = None
    done: bool = False
    begun: bool = False

    @property
    def size(self) -> int:
        """Texts."""
        return max(1, len(self.ids))


def in_parts(
    works: Sequence[Work],
    batch: int,
    compute: Callable[[list[Sequence[int]]], Sequence[Any]],
) -> Iterator[list[tuple[Work, Piece]]]:
    """Texts of several works by length, ``batch`` at a time; a work is answered when its last text is."""
    found: dict[int, dict[int, Any]] = {id(work): {} for work in works}
    order = sorted(
        ((work, index) for work in works for index in range(len(work.ids))),
        key=lambda each: len(each[0].ids[each[1]]),
    )
    for start in range(0, len(order), batch):
        part = [each for each in order[start : start + batch] if not each[0].ticket.left]
        if not part:
            continue
        values = compute([work.ids[index] for work, index in part])
        posts = list[tuple[Work, Piece]]()
        for (work, index), value in zip(part, values, strict=True):
            own = found[id(work)]
            own[index] = value
            if len(own) == len(work.ids):
                posts.append((work, Piece([own[i] for i in range(len(work.ids))])))
        yield posts
