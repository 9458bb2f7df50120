"""The model's thread: batches of what waits, streams token by token in turn, and what happens when it hangs.

One thread computes. A group of requests advances step by step: a batch is one step, a continuation one for the
prompt and one for each token, so that nobody waits for a long answer. A watchdog asks a step that takes too long to
stop; one that does not is left behind with its thread, and a new thread goes on with the others.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from saa_core.serve.jobs import Admission, Piece, RefusedError, TimeLimitError
from saa_core.serve.logs import frames
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Limits
from saa_core.serve.work.failsafe import Group, guarded, out_of_memory
from saa_core.serve.work.parts import Work

LOG = logging.getLogger("saa.serve")
LOOK_EVERY = 0.05
"""Seconds between two looks of the watchdog."""
GRACE = 1.0
"""Seconds that a step gets to stop after it was asked to."""


class Scheduler:
    """Owns what waits and what runs; several threads come to it.

    Args:
        prepare: called first in each model thread.
    """

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        admission: Admission,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits, self.metrics, self.admission = limits, metrics, admission
        self._prepare = prepare
        self._change = threading.Condition()
        self._waiting, self._active = deque[Work](), deque[Group]()
        self._stepping: Group | None = None
        self._generation = 0
        self._begun_next = False
        self._closed = False

    def start(self) -> None:
        """Starts the model's thread and the watchdog."""
        self._start_thread()
        threading.Thread(target=self._watch, name="saa-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Ends both threads after the step that runs."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def submit(self, work: Work) -> None:
        """Puts a piece of work at the end of what waits."""
        with self._change:
            self._waiting.append(work)
            self._count()
            self._change.notify()

    @property
    def alive(self) -> bool:
        """Whether a model thread is at work."""
        return not self._closed and self._thread.is_alive()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(self._generation,), name="saa-model", daemon=True
        )
        self._thread.start()

    def _run(self, generation: int) -> None:
        self._prepare()
        while True:
            with self._change:
                while not self._closed and generation == self._generation:
                    group = self._next()
                    if group is not None:
                        break
                    self._stepping = None
                    self._count()
                    self._change.wait()
                else:
                    return
                group.since, group.overdue = time.monotonic(), False
                self._stepping = group
                self._count()
            more = self._step(group)
            with self._change:
                if generation != self._generation or group.abandoned:
                    return
                self._stepping = None
                if more:
                    self._active.append(group)

    def _next(self) -> Group | None:
        """The group whose step is next: a new one and one that has begun, in turn."""
        self._waiting = deque(work for work in self._waiting if not work.ticket.left)
        self._begun_next = not self._begun_next
        if self._begun_next and self._active:
            return self._active.popleft()
        streams = sum(group.works[0].stream for group in self._active)
        for index, head in enumerate(self._waiting):
            if head.stream and streams >= self.limits.streams:
                continue
            works = self._together(index)
            return Group(works, lambda group: guarded(group, self.metrics))
        return self._active.popleft() if self._active else None

    def _together(self, index: int) -> list[Work]:
        """Takes the work at an index out of what waits, with what can be computed beside it."""
        head, size, taken = self._waiting[index], 0, list[Work]()
        for work in self._waiting:
            if work is not head and (head.key is None or work.key != head.key):
                continue
            if taken and size + work.size > self.limits.batch:
                break
            taken.append(work)
            size += work.size
        chosen = {id(work) for work in taken}
        self._waiting = deque(work for work in self._waiting if id(work) not in chosen)
        return taken

    def _step(self, group: Group) -> bool:
        """Runs one step and delivers what came out; False at the end of the group."""
        first = group.begin(self.metrics)
        try:
            posts = next(group.steps, None)
        except Exception as error:  # whatever it is, the thread goes on with others
            if not group.abandoned:
                self._failed(group, error)
            return False
        if group.abandoned:
            return False
        if first:
            group.read(self.metrics)
            tokens = sum(work.ticket.tokens for work in group.works)
            loop = group.works[0].ticket.loop
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(
                    self.admission.measured, tokens, time.monotonic() - group.since
                )
        if posts is None or group.gone:
            group.end()
            return False
        self._deliver(group, posts)
        return not all(work.done for work in group.works)

    def _deliver(self, group: Group, posts: list[tuple[Work, Piece]]) -> None:
        for work, piece in posts:
            work.done = work.done or piece.last
            with suppress(RuntimeError):
                work.ticket.post(piece)
        if all(work.done for work in group.works):
            group.end()

    def _failed(self, group: Group, error: Exception) -> None:
        """What became of a group that raised: halves of it are tried where memory was short."""
        group.end()
        open_works = [work for work in group.works if not work.done and not work.ticket.left]
        if out_of_memory(error) and len(open_works) > 1:
            middle = len(open_works) // 2
            with self._change:
                for half in (open_works[middle:], open_works[:middle]):
                    self._active.appendleft(Group(half, lambda group: guarded(group, self.metrics)))
            return
        if out_of_memory(error):
            self.metrics.rejected.labels("memory").inc(len(open_works))
            error = RefusedError("this server is short of memory", "memory", 503, 5)
        elif group.overdue:
            error = TimeLimitError("a step took longer than this server allows")
        elif not isinstance(error, group.expected):
            LOG.error(
                "work failed", extra={"saa": {"error": type(error).__name__, "at": frames(error)}}
            )
        for work in open_works:
            with suppress(RuntimeError):
                work.ticket.post(error)

    def _watch(self) -> None:
        while not self._closed:
            time.sleep(LOOK_EVERY)
            group = self._stepping
            if group is None:
                continue
            over = time.monotonic() - group.since - group.allowed(self.limits)
            if over > 0:
                group.overdue = True
            if over > GRACE:
                self._abandon(group)

    def _abandon(self, group: Group) -> None:
        """Leaves a thread behind that does not come back, and goes on in a new one."""
        with self._change:
            if self._stepping is not group or group.abandoned:
                return
            group.abandoned = True
            self._generation += 1
            self._stepping = None
            self.metrics.abandoned.inc()
            LOG.error(
                "a model thread hangs and is left behind",
                extra={"saa": {"op": group.works[0].ticket.op}},
            )
            again = group.instead(self.metrics)
            if again is None:
                for work in group.works:
                    work.ticket.post(TimeLimitError("a step took longer than this server allows"))
            else:
                self._active.appendleft(again)
            self._start_thread()

    def _count(self) -> None:
        """Gauges; the lock is held."""
        groups = [*self._active, *([] if self._stepping is None else [self._stepping])]
        self.metrics.waiting.set(len(self._waiting))
        self.metrics.running.set(sum(len(group.works) for group in groups))
