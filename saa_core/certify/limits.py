"""What a user can accept, and the statistics that show whether a setting keeps to it.

Settings are tested one after the other, safest first, each at the level delta, until one fails: a fixed
sequence, which keeps the chance that *any* setting passes wrongly within delta (Angelopoulos et al.,
"Learn then Test", arXiv 2110.01052). The p-value of a changed label is the exact binomial one; that of
other losses comes from a bet (Waudby-Smith and Ramdas, arXiv 2010.09686; see bounds.py).

"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from saa_core.bounds import binomial_interval, binomial_tail, log_capital, upper_bound
from saa_core.errors import PolicyError

QUANTITIES = ("label_change", "missed_mass", "perplexity")
CLIP = 10.0
"""A text whose perplexity grows by more than so many times the limit counts as if by just that."""
MOST_TEXTS = 1_000_000


@dataclass(frozen=True)
class RiskLimit:
    """A limit for what sparse attention may cost, and how surely it is kept. Exactly one of the three:

    Args:
        label_change: share of texts whose label differs from the reference model's, in (0, 1).
        perplexity: mean over texts of perplexity against dense minus 1, in (0, 1): 0.01 is one
            percent. A text that gains counts as 0, and one that loses more than CLIP times the
            limit counts as CLIP times it: the promise is about this clipped mean.
        missed_mass: mean over texts of the missed mass of a text, in (0, 1).
        delta: how often a choice from other texts of the same kind may break the limit, in (0, 1).
        margin: for rare cases that the texts lack: what is tested is the limit divided by 1 + margin.
            0 tests the limit itself, 1 tests half of it.

    Raises:
        PolicyError: none or several limits are given, or a value is outside its range.
    """

    label_change: float | None = None
    perplexity: float | None = None
    missed_mass: float | None = None
    delta: float = 0.05
    margin: float = 0.1

    def __post_init__(self) -> None:
        given = [name for name in QUANTITIES if getattr(self, name) is not None]
        if len(given) != 1:
            raise PolicyError(
                f"RiskLimit has {len(given)} limits ({', '.join(given) or 'none'}); give exactly one of: "
                f"{', '.join(QUANTITIES)}"
            )
        for name in (*given, "delta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (
                isinstance(value, (int, float)) and 0.0 < value < 1.0
            ):
                raise PolicyError(f"{name}={value!r} must be a number between 0 and 1")
        if not (isinstance(self.margin, (int, float)) and 0.0 <= self.margin <= 100.0):
            raise PolicyError(f"margin={self.margin!r} must be a number from 0 to 100")

    def __str__(self) -> str:
        """For example "perplexity at most 1 % (delta 5 %, margin 10 %)"."""
        what = self.quantity.replace("_", " ")
        return (
            f"{what} at most {100 * self.limit:g} % (delta {100 * self.delta:g} %, margin "
            f"{100 * self.margin:g} %)"
        )

    @property
    def quantity(self) -> str:
        """Which of QUANTITIES is limited."""
        return next(name for name in QUANTITIES if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """Of the mean loss, as promised."""
        value: float = getattr(self, self.quantity)
        return value

    @property
    def tested(self) -> float:
        """The limit that the texts at hand have to show: what is promised, less the margin."""
        return self.limit / (1.0 + self.margin)

    @property
    def worst(self) -> float:
        """The highest loss of one text that counts."""
        return CLIP * self.limit if self.quantity == "perplexity" else 1.0

    def clipped(self, losses: Iterable[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Losses as they count, each from 0 to ``worst``; one that is no number is the worst."""
        values = np.asarray(list(losses), np.float64)
        return np.where(np.isnan(values), self.worst, values).clip(0.0, self.worst)

    def p_value(self, losses: Iterable[float]) -> float:
        """How likely losses as low as these are at most, if the true mean is over the tested limit.

        Args:
            losses: one per text, of texts that had no part in choosing the setting.
        """
        values = self.clipped(losses)
        if self.quantity == "label_change":
            return binomial_tail(int(values.sum()), len(values), self.tested)
        import torch  # here: a limit is also read and printed where nothing is tested

        capital = log_capital(torch.from_numpy(values / self.worst), self.tested / self.worst)
        return min(1.0, math.exp(-float(capital)))

    def interval(self, losses: Iterable[float]) -> tuple[float, float]:
        """95 % interval of the true mean, exact for label changes and by a bet otherwise."""
        values = self.clipped(losses)
        if self.quantity == "label_change":
            return binomial_interval(int(values.sum()), len(values), 0.05)
        import torch

        shares = torch.from_numpy(values / self.worst)
        low, high = 1.0 - float(upper_bound(1.0 - shares, 0.025)), float(upper_bound(shares, 0.025))
        return self.worst * max(0.0, low), self.worst * high

    def needed(self, losses: Sequence[float] = (0.0,)) -> int | None:
        """About how many texts would certify a setting whose texts lose what these do; None if no
        number would, because their mean is over the tested limit. Without losses: the least of all."""
        values = self.clipped(losses)
        if values.mean() >= self.tested:
            return None
        size = 1
        while size < MOST_TEXTS:
            if self.p_value(np.resize(values, size)) <= self.delta:
                return size
            size = max(size + 1, math.ceil(1.02 * size))
        return None
