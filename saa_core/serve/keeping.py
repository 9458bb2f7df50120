"""Runs that are kept: with their text, without it, or not at all, and for how long. Expiry runs by itself.

Texts of users are in traces. The operator says what is kept; who asked for a run may see and delete it, and an
operator may see and delete all. The store is the server's own, so that nobody else's traces expire.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from saa_core.files import store_dir
from saa_core.serve.access import Caller
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Keep
from saa_core.store import Store
from saa_core.store.ids import is_id, time_of
from saa_core.store.notes import Note

if TYPE_CHECKING:
    from saa_core.trace.trace import Trace

EVERY = 30.0
"""Seconds between two looks for what has expired."""
OWNER = "asked by "
"""Begins the tag that names who asked for a run."""


@dataclass(frozen=True)
class KeptRun:
    """A run in the store: its id, who asked for it, and when it is deleted, in seconds since 1970."""

    run: str
    owner: str
    expires: float


class Kept:
    """The store of kept runs; threads may share it.

    Args:
        clock: seconds since 1970.
    """

    def __init__(
        self, keep: Keep, metrics: Metrics, clock: Callable[[], float] = time.time
    ) -> None:
        self.keep, self.metrics, self.clock = keep, metrics, clock
        folder = store_dir().parent / "served" if keep.folder is None else Path(keep.folder)
        self.store = Store(folder) if keep.what != "none" or folder.is_dir() else None
        self._lock = Lock()

    def add(self, trace: "Trace", caller: Caller) -> str | None:
        """Keeps a run as the operator says; its id, None where nothing is kept."""
        if self.store is None or self.keep.what == "none":
            return None
        if self.keep.what == "figures":
            from saa_core.serve.work.recording import without_text

            trace = without_text(trace)
        with self._lock:
            return self.store.add(trace, tags=[f"{OWNER}{caller.name}"])

    def visible(self, caller: Caller) -> list[KeptRun]:
        """What a caller may see, the newest first."""
        if self.store is None:
            return []
        notes = self.store.notes()
        found = [self._about(run, notes) for run in self.store.ids()]
        return [kept for kept in found[::-1] if caller.operator or kept.owner == caller.name]

    def file(self, run: str, caller: Caller) -> Path | None:
        """The trace file of a run; None where there is none that this caller may see."""
        if self.store is None or not is_id(run) or run not in self.store:
            return None
        about = self._about(run, self.store.notes())
        allowed = caller.operator or about.owner == caller.name
        return self.store.path(run) if allowed and about.expires > self.clock() else None

    def delete(self, run: str, caller: Caller) -> bool:
        """Removes a run; False where there is none that this caller may see."""
        if self.store is None or self.file(run, caller) is None:
            return False
        with self._lock:
            self.store.delete(run)
        return True

    def expire(self) -> int:
        """Deletes what is too old, and the oldest of what is too many; returns how many.

        Only runs that a server kept, which have an owner: a folder may hold somebody's own traces.
        """
        if self.store is None:
            return 0
        with self._lock:
            notes = self.store.notes()
            every = [self._about(run, notes) for run in self.store.ids()]
            runs = [kept for kept in every if kept.owner]
            runs.sort(key=lambda kept: kept.expires)
            now, most = self.clock(), self.keep.most
            many = max(0, len(runs) - most)
            gone = [k.run for at, k in enumerate(runs) if at < many or k.expires <= now]
            if gone:
                self.store.delete(*gone)
                self.metrics.expired.inc(len(gone))
            self.metrics.kept.set(len(runs) - len(gone))
        return len(gone)

    def _about(self, run: str, notes: Mapping[str, Note]) -> KeptRun:
        recorded = time_of(run)
        when = 0.0 if recorded is None else recorded.timestamp()
        note = notes.get(run)
        tags = () if note is None else note.tags
        owner = next((tag[len(OWNER) :] for tag in tags if tag.startswith(OWNER)), "")
        return KeptRun(run, owner, when + 3600 * self.keep.hours)
