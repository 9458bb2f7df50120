"""Repeated failures of the sparse path open a breaker: from then on answers are dense, until one try succeeds."""

import threading
import time
from collections import deque
from collections.abc import Callable

from saa_core.serve.settings import Breaking


class Breaker:
    """Of one model under one policy; threads may share it.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, settings: Breaking, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings, self.clock = settings, clock
        self._failures = deque[float](maxlen=settings.failures)
        self._opened: float | None = None
        self._trying = False
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        return self._opened is not None

    def allows(self) -> bool:
        """Whether the sparse path may be taken now. When the time is over, one caller is let through,
        who has to report how it went."""
        with self._lock:
            if self._opened is None:
                return True
            waited = self.clock() - self._opened >= self.settings.cooldown_seconds
            if self._trying or not waited:
                return False
            self._trying = True
            return True

    def succeeded(self) -> None:
        with self._lock:
            if self._trying:
                self._opened, self._trying = None, False
                self._failures.clear()

    def failed(self) -> bool:
        """Counts a failure; True where it opened the breaker."""
        with self._lock:
            now, was = self.clock(), self.open
            self._failures.append(now)
            full = len(self._failures) == self.settings.failures
            recent = now - self._failures[0] <= self.settings.window_seconds
            if self._trying or (full and recent):
                self._opened, self._trying = now, False
            return self.open and not was

    def let_go(self) -> None:
        """Whoever was let through was cancelled, and found nothing out."""
        with self._lock:
            self._trying = False
