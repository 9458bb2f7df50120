"""Wall time in attention, by stage."""

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Span:
    """A stretch of wall time that one layer's attention spent in a stage; seconds of ``perf_counter``."""

    layer: int
    stage: str
    start: float
    end: float


class StageTimer:
    """Adds the time since the last lap to a stage; waits for the device where work is queued.

    Args:
        seconds: by stage, added to.
        spans: each lap by itself, appended to.
    """

    def __init__(
        self,
        seconds: dict[str, float],
        device: torch.device,
        spans: list[Span] | None = None,
        layer: int = 0,
    ) -> None:
        self.seconds = seconds
        self.device = device
        self.spans = spans
        self.layer = layer
        self.last = self._now()

    def lap(self, stage: str) -> None:
        now = self._now()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        if self.spans is not None:
            self.spans.append(Span(self.layer, stage, self.last, now))
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()
