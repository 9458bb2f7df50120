"""What an audit found about one run, beside the dense run of the same text; stored in its trace."""

from dataclasses import dataclass

from saa_core.errors import TraceError


@dataclass(frozen=True)
class Audited:
    """How far a run moved from the dense one.

    Args:
        audit: which audit the run belongs to.
        slices: kinds of texts that its text belongs to (slices.py).
        agreement: share of the positions at which the most likely next token is the dense run's; of
            a classification task 1 if the label is the same, else 0.
        lost: probability that the dense run's most likely next token (mean over positions) or label
            loses; below 0 where it gains. A token that is not among the stored five counts as if it
            were the fifth, so it loses at least this much.
    """

    audit: str
    slices: tuple[str, ...]
    agreement: float
    lost: float

    def __post_init__(self) -> None:
        names = (self.audit, *self.slices)
        figures = {"agreement": (self.agreement, 0.0), "lost": (self.lost, -1.0)}
        if not self.audit or not all(isinstance(name, str) for name in names):
            raise TraceError(f"audit={self.audit!r} and slices={self.slices!r} must be names")
        for name, (value, low) in figures.items():
            if not isinstance(value, (int, float)) or not low <= value <= 1.0:
                raise TraceError(f"{name}={value!r} must be a number from {low:g} to 1")
