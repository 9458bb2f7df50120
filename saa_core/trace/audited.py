"""What an audit found about one run, beside the dense run of the same text; stored in its trace.

Knows two traces of the same tokens; runs nothing and opens no file.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from saa_core.errors import TraceError

if TYPE_CHECKING:
    from saa_core.trace.trace import Trace


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


def audited(audit: str, slices: tuple[str, ...], dense: "Trace", trace: "Trace") -> Audited:
    """What the run ``trace`` lost against the run ``dense``.

    Raises:
        TraceError: the two are of different tokens or labels, or have neither labels nor next tokens.
    """
    if not np.array_equal(dense.token_ids, trace.token_ids) or dense.labels != trace.labels:
        raise TraceError("the two traces are of different tokens or labels")
    if dense.label_probs is not None and trace.label_probs is not None:
        best = int(dense.label_probs.argmax())
        lost = float(dense.label_probs[best]) - float(trace.label_probs[best])
        return Audited(audit, slices, float(dense.label == trace.label), lost)
    ids, probs, old, before = trace.top_ids, trace.top_probs, dense.top_ids, dense.top_probs
    if ids is None or probs is None or old is None or before is None:
        raise TraceError(
            "the two traces have neither labels nor next tokens; nothing can be audited"
        )
    same = ids == old[:, :1]
    now = np.where(same.any(1), (probs * same).sum(1), probs[:, -1])
    agreement = float((ids[:, 0] == old[:, 0]).mean())
    return Audited(audit, slices, agreement, float((before[:, 0].astype(np.float64) - now).mean()))
