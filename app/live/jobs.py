"""What runs behind the pages: one job for all who ask for the same, with what it has found so far.

A job has a thread of its own, so that a page that is left does not take it along while another waits for it.
When nobody waits any more it ends at its next report.
"""

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
LOOK = 0.1
"""Seconds after which who waits hears of the progress again, and can leave."""
SILENCE = 0.5
"""Seconds after which it hears the same again."""
PATIENCE = 2.0
"""Seconds for which a job goes on that nobody waits for: a page that runs again asks for it again."""


class Report(Protocol):
    """Called with the step's name (a key of the text files), the share that is done, and what else is known:
    ``left``, the seconds that are still to go, and ``place``, the turns that come before."""

    def __call__(self, step: str, share: float, **known: Any) -> None: ...


class AbandonedError(Exception):
    """Nobody waits for a job any more."""


class Job(Generic[T]):
    """Work that yields better and better answers; see :class:`Jobs`."""

    def __init__(self, visitor: object, work: "Callable[[Job[T]], Iterator[T]]") -> None:
        self.visitor = visitor
        self._work = work
        self._changed = threading.Condition()
        self._step: tuple[str, float, dict[str, Any]] = ("wait", 0.0, {})
        self._answers = 0
        self._answer: T | None = None
        self._error: BaseException | None = None
        self._waiters = self._watching = 0
        self._alone_since = time.monotonic()
        self._stopped = False
        self.done = False

    def report(self, step: str, share: float, **known: Any) -> None:
        """Says how far the work is. Raises AbandonedError where nobody waits for it."""
        with self._changed:
            self._step = (step, share, known)  # found by who waits; a notice per layer costs time
            self._check()

    def until_watched(self) -> None:
        """Waits until somebody does nothing but wait for the next answer: while a page is drawn from the last
        one, it would spoil what is on the clock. Raises AbandonedError where nobody waits any more."""
        with self._changed:
            while not self._watching:
                self._check()
                self._changed.wait(LOOK)

    def _check(self) -> None:
        alone = not self._waiters and time.monotonic() - self._alone_since > PATIENCE
        if alone or (self._stopped and not self._waiters):
            raise AbandonedError

    def stop(self) -> None:
        """Ends the work at its next report unless somebody waits for it."""
        self._stopped = True

    def follow(self, report: Report, known: int = 0) -> Iterator[tuple[int, T]]:
        """Each answer as it comes, numbered from 1, the newest only where several came at once. Reports are
        made by the thread of who waits; what they raise ends the waiting, not the work.

        Args:
            known: answers that are known already.

        Raises:
            what the work raised.
        """
        with self._changed:
            self._waiters += 1
        said, last = None, 0.0
        try:
            while True:
                with self._changed:
                    step, answers, answer = self._step, self._answers, self._answer
                    ended, error = self.done, self._error
                if answers > known:
                    known = answers
                    yield answers, answer  # type: ignore[misc]
                    continue
                if error is not None:
                    raise error
                if ended:
                    return
                news = (step[0], round(step[1], 2), step[2].get("place"))
                if news != said or time.monotonic() - last > SILENCE:
                    said, last = news, time.monotonic()
                    report(step[0], step[1], **step[2])
                with self._changed:
                    if self._answers == answers and not self.done:
                        self._watching += 1
                        self._changed.notify_all()
                        self._changed.wait(LOOK)
                        self._watching -= 1
        finally:
            with self._changed:
                self._waiters -= 1
                self._alone_since = time.monotonic()

    def run(self) -> None:
        try:
            for answer in self._work(self):
                with self._changed:
                    self._answer, self._answers = answer, self._answers + 1
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self.done = True
                self._changed.notify_all()


class Jobs:
    """The jobs that run, by what was asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, Job[Any]] = {}

    def join(self, key: Hashable, work: Callable[[Job[T]], Iterator[T]]) -> Job[T]:
        """The job that runs for this already, or a new one."""
        with self._lock:
            found = self._running.get(key)
            if found is not None and not found.done and not found._stopped:
                return found
            job: Job[T] = Job(threading.get_ident(), work)
            self._running[key] = job
        threading.Thread(target=self._run, args=(key, job), name="saa-job", daemon=True).start()
        return job

    def stop(self, key: Hashable) -> None:
        """Ends a job within a layer of the model unless somebody waits for it."""
        with self._lock:
            found = self._running.get(key)
        if found is not None:
            found.stop()

    def _run(self, key: Hashable, job: Job[Any]) -> None:
        try:
            job.run()
        finally:
            with self._lock:
                if self._running.get(key) is job:
                    del self._running[key]
            return_memory()


def return_memory() -> None:
    """Gives freed memory back to the system, where the C library can: glibc keeps what threads have freed, and
    every job has a thread of its own."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


JOBS = Jobs()
"""Of this process."""
