"""Result -> the numbers of the page. Pure: no streamlit, no sentence, no chart.

Quartiles are (lower, median, upper); None is a figure that the result does not have.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from app.live.values import Result
from saa_core.families import FAMILIES
from saa_core.types import PAIR_LIMIT

Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class Figures:
    """Shares are in [0, 1]; times in ms; ``ratio`` is dense time / SAA time, round by round.
    ``retained_rows`` are the queries from which the attention that is kept was estimated, with its 95 %
    interval; None where it is exact. ``compared`` are the positions whose next tokens were compared."""

    tokens: int
    pairs: int
    pairs_kept: int
    dropped: float
    dropped_heads: Quartiles
    retained: float | None
    retained_heads: Quartiles | None
    retained_rows: int | None
    retained_interval: tuple[float, float] | None
    agreement: float | None
    agreeing: int | None
    compared: int
    next_same: bool | None
    cosine: float | None
    kl: float | None
    kl_p95: float | None
    dense_ms: Quartiles | None
    saa_ms: Quartiles | None
    ratio: Quartiles | None
    pairwise: bool
    skips: bool
    settled: bool

    @property
    def speed(self) -> str:
        """One of "faster", "slower", "same", "unknown"; unknown before all rounds are done.

        Quartiles that hold 1 are no measurable difference. Neither is a busy machine on which the
        ratios of the rounds say one thing and the two medians another.
        """
        if not self.settled or self.ratio is None or self.dense_ms is None or self.saa_ms is None:
            return "unknown"
        low, _, high = self.ratio
        gain = self.dense_ms[1] - self.saa_ms[1]
        if low > 1 and gain > 0:
            return "faster"
        return "slower" if high < 1 and gain < 0 else "same"


def figures(result: Result) -> Figures:
    trace, comparison = result.trace, result.comparison
    _, heads = trace.shape
    pairs = int(trace.allowed_pairs.sum()) * heads
    retained = trace.retained_mass
    same = None if comparison is None else comparison.top1_agreement
    kl = None if comparison is None else comparison.kl
    timings = result.dense_timing, result.timing
    dense_ms, saa_ms = (None if t is None else quartiles(t.samples_ms) for t in timings)
    return Figures(
        tokens=trace.keys,
        pairs=pairs,
        pairs_kept=round(pairs * (1 - trace.sparsity)),
        dropped=trace.sparsity,
        dropped_heads=quartiles(1 - trace.density),
        retained=None if retained is None else float(retained.mean()),
        retained_heads=None if retained is None else quartiles(retained),
        retained_rows=None if trace.mass_queries is None else len(trace.mass_queries),
        retained_interval=trace.retained_interval(),
        agreement=None if same is None else float(same.mean()),
        agreeing=None if same is None else int(same.sum()),
        compared=trace.keys if same is None else len(same),
        next_same=None if same is None else bool(same[-1]),
        cosine=None if comparison is None else comparison.embedding_cosine,
        kl=None if kl is None else float(kl.mean()),
        kl_p95=None if kl is None else float(np.percentile(kl, 95)),
        dense_ms=dense_ms,
        saa_ms=saa_ms,
        ratio=_ratio(result),
        pairwise=trace.policy is not None and trace.block == (1, 1),
        skips=trace.execution.kernel in ("native", "triton", "flex", "gather")
        and trace.block != (1, 1),
        settled=result.rounds_left == 0,
    )


def compare_labels(result: Result) -> str:
    """How the labels of both sides compare: "same", "differs", or "unknown" of a recording."""
    if result.dense is None:
        return "unknown"
    return "same" if result.dense.label == result.trace.label else "differs"


def is_encoder(result: Result) -> bool:
    """The model makes embeddings, not text."""
    family = FAMILIES.get(result.trace.model.family)
    return family is not None and not family.causal


def work_share(result: Result) -> float:
    """Share of dense's operations that was done; of a recording the share of the token work."""
    return result.trace.token_share if result.flops_share is None else result.flops_share


def time_key(found: Figures, result: Result) -> str:
    """What is said of time: "short" where a text is too short to tell, else :attr:`Figures.speed`.

    Single pairs, by which short texts are decided, gain nothing; what a clock says of them is noise.
    """
    if found.speed == "unknown":
        return "unknown"
    pairs = found.pairwise and result.trace.labels is None
    return "short" if pairs or (found.speed == "same" and short(found.tokens)) else found.speed


def times_over(found: Figures) -> float:
    """How many times faster, or slower, as a number over one."""
    if found.ratio is None:
        return 1.0
    return found.ratio[1] if found.speed == "faster" else 1 / found.ratio[1]


def short(tokens: int) -> bool:
    """Texts of this length are decided pair by pair unless the policy says otherwise."""
    return tokens <= PAIR_LIMIT


def quartiles(values: ArrayLike) -> Quartiles:
    low, middle, high = np.percentile(np.asarray(values, np.float64), [25, 50, 75])
    return float(low), float(middle), float(high)


def _ratio(result: Result) -> Quartiles | None:
    dense, sparse = result.dense_timing, result.timing
    if dense is None or sparse is None or len(dense.samples_ms) != len(sparse.samples_ms):
        return None
    return sparse.ratio(dense)
