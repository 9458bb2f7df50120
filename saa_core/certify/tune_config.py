"""How policies are searched: the configuration, with its defaults. Plain values, without PyTorch."""

from dataclasses import dataclass

from saa_core.errors import PolicyError

SEARCHED = {"label_change": 400, "perplexity": 48, "missed_mass": 48}
"""Labels come in batches and say little each; other losses take a pass per text and say much."""


@dataclass(frozen=True)
class TuneConfig:
    """How to search.

    Args:
        minutes: of search and certifying together; half of it for each at most.
        trials: settings to try at most in this run; None is as many as the time allows.
        share: of the texts that the search is given, in (0, 1); the others certify.
        searched: texts that the search is given at most; None takes SEARCHED, by what is promised.
        candidates: settings of the front that are certified at most.
        pairs: also decide pair by pair, which keeps fewer pairs but saves no time (docs/results.md, Time).
        seed: of the split and of the search.

    Raises:
        PolicyError: a value is outside its range.
    """

    minutes: float = 20.0
    trials: int | None = None
    share: float = 0.3
    searched: int | None = None
    candidates: int = 6
    pairs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise PolicyError(f"minutes={self.minutes!r} must be over 0")
        if not 0 < self.share < 1:
            raise PolicyError(f"share={self.share!r} must be between 0 and 1")
        for name in ("trials", "searched", "candidates"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise PolicyError(f"{name}={value!r} must be a whole number >= 1")
