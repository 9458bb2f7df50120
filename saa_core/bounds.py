"""Bounds of a mean from samples: by betting, and the exact binomial ones.

The bet (Waudby-Smith and Ramdas, arXiv 2010.09686): capital multiplied by 1 + bet * (limit - sample) per
sample is a fair game at best if the mean is at the limit, so it reaches 1 / delta with probability
delta at most. Bets are fixed beforehand and the capital is the mean over several, so means may differ
from sample to sample, and may depend on what was seen before.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BETS = (0.3, 0.95)
"""Bets, as shares of the highest one that cannot lose more than there is."""
HALVINGS = 40


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
