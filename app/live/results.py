"""What all visitors' runs have found, so that nobody waits for what somebody has had: bounded in memory, the
older maps on disk, the oldest results forgotten."""

import threading
from dataclasses import replace

from app.live import spill
from app.live.values import Request, Result

RESULTS_KEPT = 48
MOST_BYTES = 192 * 2**20
"""Most that the shared results hold in memory; of the others the maps lie on disk."""


class SharedResults:
    """Results by request, the least recently asked for first."""

    def __init__(self, kept: int = RESULTS_KEPT, most_bytes: int = MOST_BYTES) -> None:
        self.kept, self.most_bytes = kept, most_bytes
        self._results: dict[Request, Result] = {}
        self._lock = threading.Lock()

    def get(self, request: Request) -> Result | None:
        with self._lock:
            found = self._results.pop(request, None)
            if found is not None:
                self._results[request] = found
            return found

    def put(self, result: Result) -> None:
        assert result.request is not None
        with self._lock:
            self._results.pop(result.request, None)
            self._results[result.request] = result
            spill.bound(self._results, self.kept, self.most_bytes)

    def of_text(self, request: Request) -> Result | None:
        """The newest result of the same text and model, whatever the policy: its dense side is the same."""
        with self._lock:
            for other, found in reversed(self._results.items()):
                if replace(other, policy=request.policy) == request:
                    return found
        return None

    def clear(self) -> None:
        with self._lock:
            self._results.clear()


SHARED = SharedResults()
"""Of this process."""
