"""Times as they were measured: raw samples, from which medians and quartiles are derived. Without PyTorch."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Measured wall times of one policy at one length; raw samples, never only their mean.

    Args:
        name: "dense" or a description of the policy.
        length: tokens.
        samples_ms: whole forward pass, ms, one per round; rounds are interleaved with the others'.
        attention_ms: attention in all layers, gate and rule included, ms, one per round.
        stages_ms: median ms per stage of the attention ("gate", "rule", "kernel" or "dense").
        device, dtype, threads, kernel, versions: what ran.
        compile_ms: time spent compiling before the rounds, not part of any sample.
        peak_bytes: highest memory of the process (CPU) or the device during the rounds, if known.
        density: kept / allowed pairs in the warm-up, 1.0 for dense; None without a warm-up.
    """

    name: str
    length: int
    samples_ms: tuple[float, ...]
    attention_ms: tuple[float, ...]
    stages_ms: dict[str, float]
    device: str
    dtype: str
    threads: int
    kernel: str
    compile_ms: float
    peak_bytes: int | None
    versions: dict[str, str]
    density: float | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples_ms", tuple(self.samples_ms))
        object.__setattr__(self, "attention_ms", tuple(self.attention_ms))

    @property
    def median_ms(self) -> float:
        return quartiles(self.samples_ms)[1]

    def ratio(self, dense: "Timing", what: str = "samples_ms") -> tuple[float, float, float]:
        """How many times faster than ``dense``: quartiles of the ratios of neighbouring samples.

        Args:
            what: "samples_ms" (whole forward pass) or "attention_ms".
        """
        pairs = zip(getattr(dense, what), getattr(self, what), strict=True)
        return quartiles([slow / fast for slow, fast in pairs])


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(samples) == 1:
        return (samples[0],) * 3
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high
