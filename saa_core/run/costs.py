"""What measured times mean in machines and money. Arithmetic only; every input is an argument.

Knows raw samples of dense and SAA that were taken in turn, and an operator's assumptions; knows no
model and no machine. Spread comes from the samples: each round gives one ratio, and quartiles of
the ratios become quartiles of the result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from saa_core.errors import PolicyError
from saa_core.types import Timing, quartiles

HOURS = 730.0
"""Hours of a month: 8,760 / 12."""
DAY = 86_400.0
"""Seconds."""
Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class Assumptions:
    """What an operator assumes.

    Args:
        requests: per day, on average.
        price: of one machine per hour, in any currency.
        peak: busiest hour over the average one, >= 1; machines are bought for the peak.
        busy: share of its time that a machine may be busy, in (0, 1]; the rest is reserve.
        share: share of a request's time that the measured part is, in (0, 1]: reading the text. What
            is not measured, such as writing the reply, takes as long on both sides.

    Raises:
        PolicyError: a value is outside its range.
    """

    requests: float
    price: float
    peak: float = 3.0
    busy: float = 0.6
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("requests", 0.0, math.inf),
            ("price", 0.0, math.inf),
            ("peak", 1.0, math.inf),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                raise PolicyError(f"{name}={value!r} must be a number >= {least:g}")
        for name in ("busy", "share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise PolicyError(f"{name}={getattr(self, name)!r} must be a number in (0, 1]")


@dataclass(frozen=True)
class MeasuredLength:
    """Times of one request on one machine, in ms, dense and SAA taken in turn.

    Args:
        tokens: length of the text.
        dense_ms, saa_ms: one per round.
    """

    tokens: int
    dense_ms: tuple[float, ...]
    saa_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.dense_ms or len(self.dense_ms) != len(self.saa_ms):
            raise PolicyError(
                f"dense_ms and saa_ms have {len(self.dense_ms)} and {len(self.saa_ms)} rounds; they "
                "are taken in turn, so both need the same number, at least one"
            )

    @property
    def ratio(self) -> Quartiles:
        """How many times faster than dense SAA is, round by round."""
        return quartiles([d / s for d, s in zip(self.dense_ms, self.saa_ms, strict=True)])


@dataclass(frozen=True)
class Bill:
    """One side: machines and cost per month, lower quartile, median and upper quartile.

    Args:
        request_s: machine time per request, seconds.
        load: machines kept busy at the peak, before rounding up.
        machines: whole machines, at least one where there is a request.
        cost: of the machines per month, in the currency of the price.
    """

    request_s: Quartiles
    load: Quartiles
    machines: tuple[int, int, int]
    cost: Quartiles


@dataclass(frozen=True)
class Saving:
    """Dense against SAA under the same assumptions.

    Args:
        share: of the machine time that is saved, quartiles over the rounds; below 0 SAA costs more.
        monthly: cost of dense minus cost of SAA per month at the median; whole machines.
        verdict: "saves" or "costs" where the quartiles of the ratio agree on it, else "nothing".
            "same_machines" where time is saved but no whole machine.
    """

    tokens: int
    dense: Bill
    saa: Bill
    ratio: Quartiles
    share: Quartiles
    monthly: float
    verdict: str


def pair_timings(timings: Sequence[Timing]) -> list[MeasuredLength]:
    """What :func:`saa_core.measure` gave for (None, policy): dense and SAA in turn, by length."""
    return [
        MeasuredLength(dense.length, dense.samples_ms, sparse.samples_ms)
        for dense, sparse in zip(timings[::2], timings[1::2], strict=True)
    ]


def saving(found: MeasuredLength, assumed: Assumptions) -> Saving:
    """Machines and cost per month of both sides.

    The unmeasured part of a request is what ``share`` leaves over of dense's median, and the same on
    both sides. SAA's time is dense's median divided by the ratio of each round, so that a machine
    that was busy in one round does not count for one side only.
    """
    dense_ms = quartiles(found.dense_ms)[1]
    rest = dense_ms * (1 / assumed.share - 1)
    ratios = [d / s for d, s in zip(found.dense_ms, found.saa_ms, strict=True)]
    saa = quartiles([(dense_ms / ratio + rest) / 1000 for ratio in ratios])
    low, high = quartiles(found.dense_ms)[::2]
    dense = (low + rest) / 1000, (dense_ms + rest) / 1000, (high + rest) / 1000
    bills = _bill(dense, assumed), _bill(saa, assumed)
    shares = quartiles([1 - (dense_ms / ratio + rest) / (dense_ms + rest) for ratio in ratios])
    monthly = bills[0].cost[1] - bills[1].cost[1]
    ratio = quartiles(ratios)
    verdict = "saves" if ratio[0] > 1 else "costs" if ratio[2] < 1 else "nothing"
    if verdict == "saves" and monthly == 0:
        verdict = "same_machines"
    return Saving(found.tokens, bills[0], bills[1], ratio, shares, monthly, verdict)


def _bill(request_s: Quartiles, assumed: Assumptions) -> Bill:
    per_second = assumed.requests / DAY * assumed.peak
    low, middle, high = (per_second * seconds / assumed.busy for seconds in request_s)
    machines = _whole(low), _whole(middle), _whole(high)
    a, b, c = (count * assumed.price * HOURS for count in machines)
    return Bill(request_s, (low, middle, high), machines, (a, b, c))


def _whole(load: float) -> int:
    """Whole machines for a load, rounding errors of the sum left out."""
    return math.ceil(round(load, 9))
