"""How far one run moved from the dense run of the same tokens."""

import numpy as np

from saa_core.errors import TraceError
from saa_core.trace.audited import Audited
from saa_core.trace.trace import Trace


def compare_with_dense(audit: str, slices: tuple[str, ...], dense: Trace, trace: Trace) -> Audited:
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
