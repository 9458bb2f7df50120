"""Bounds of a mean from samples: by betting, the exact binomial ones, and Student's interval.

The bet (Waudby-Smith and Ramdas, arXiv 2010.09686): capital multiplied by 1 + bet * (limit - sample) per
sample is a fair game at best if the mean is at the limit, so it reaches 1 / delta with probability
delta at most. Bets are fixed beforehand and the capital is the mean over several, so means may differ
from sample to sample, and may depend on what was seen before.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BETS = (0.3, 0.95)
"""Bets, as shares of the highest one that cannot lose more than there is."""
HALVINGS = 40
STEPS = 400
"""Of Simpson's rule."""


def log_capital(missed: "Tensor", limit: "Tensor | float") -> "Tensor":
    """Log of the capital after betting on each sample in turn.

    Args:
        missed: samples in [0, 1], [..., R].
        limit: mean that is tested, broadcasts against [...].
    """
    import torch  # the binomial bounds serve without it

    limit = torch.as_tensor(limit, dtype=torch.float64)[..., None]
    highest = 1 / (1 - limit).clamp(min=1e-9)
    gain = highest * (limit - missed.double())
    each = [torch.log1p(bet * gain).sum(-1) for bet in BETS]
    return torch.stack(each).logsumexp(0) - math.log(len(BETS))


def upper_bound(missed: "Tensor", delta: float) -> "Tensor":
    """Upper bound of the mean, wrong with probability ``delta`` at most; float64 [...].

    Args:
        missed: samples in [0, 1], each from its own distribution, [..., R].
    """
    import torch

    low = torch.zeros(missed.shape[:-1], dtype=torch.float64)
    high = torch.ones_like(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        excluded = log_capital(missed, middle) >= -math.log(delta)
        high = torch.where(excluded, middle, high)
        low = torch.where(excluded, low, middle)
    return high


def least_samples(limit: float, delta: float) -> int:
    """How many samples the bet needs at least to show that a mean is within the limit: so many zeros.

    Args:
        limit: in (0, 1).
        delta: how often it may be wrong, in (0, 1).
    """
    gains = [math.log1p(bet * limit / (1 - limit)) for bet in BETS]

    def enough(count: int) -> bool:
        highest = count * max(gains)
        capital = sum(math.exp(count * gain - highest) for gain in gains) / len(gains)
        return highest + math.log(capital) >= -math.log(delta)

    low, high = 0, math.ceil(math.log(len(BETS) / delta) / max(gains)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def binomial_tail(events: int, total: int, rate: float) -> float:
    """Probability of at most so many events among ``total`` at this rate."""
    if events >= total or rate <= 0.0:
        return 1.0
    if rate >= 1.0:
        return 0.0
    logs = [
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(rate)
        + (total - k) * math.log1p(-rate)
        for k in range(events + 1)
    ]
    highest = max(logs)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(x - highest) for x in logs))


def binomial_interval(events: int, total: int, delta: float) -> tuple[float, float]:
    """Interval of the rate that misses it with probability delta at most (Clopper and Pearson)."""

    def root(over: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if over(middle) else (middle, high)
        return (low + high) / 2

    low = (
        0.0
        if events == 0
        else root(lambda rate: 1.0 - binomial_tail(events - 1, total, rate) > delta / 2)
    )
    high = (
        1.0
        if events == total
        else root(lambda rate: binomial_tail(events, total, rate) <= delta / 2)
    )
    return low, high


def student_interval(samples: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of samples that are about normal (Student's t), both ends alike.

    Args:
        samples: two at least.
        level: how often it holds the mean, in (0, 1).
    """
    mean, spread = statistics.fmean(samples), statistics.stdev(samples)
    half = student_quantile((1 + level) / 2, len(samples) - 1) * spread / math.sqrt(len(samples))
    return mean - half, mean + half


@functools.cache
def student_quantile(share: float, freedom: int) -> float:
    """The value that a Student's t of so many degrees of freedom stays under with probability ``share``.

    Args:
        share: in [0.5, 1).
    """
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    scale /= math.sqrt(freedom * math.pi)

    def under(limit: float) -> float:
        # With t = sqrt(freedom) tan(angle) the tail has no end to be cut off (Simpson's rule).
        last = math.atan(limit / math.sqrt(freedom))
        width = last / STEPS
        heights = [math.cos(width * step) ** (freedom - 1) for step in range(STEPS + 1)]
        inner = 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
        area = width / 3 * (heights[0] + inner + heights[-1])
        return 0.5 + scale * math.sqrt(freedom) * area

    low, high = 0.0, 1.0
    while under(high) < share:
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if under(middle) < share else (low, middle)
    return high
