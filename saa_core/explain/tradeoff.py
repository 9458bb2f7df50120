"""Cost against quality on one text: what every setting of the policy computes, and what it moves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from saa_core.model import Model
from saa_core.run.text import run
from saa_core.trace.compare import compare
from saa_core.trace.trace import Trace
from saa_core.types import Policy

MASSES = (0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99)


@dataclass(frozen=True)
class Point:
    """What one setting does to one text.

    Args:
        mass: the setting.
        density: kept / allowed pairs, mean over layers and heads.
        distance: from the dense run: mean KL divergence of the next-token distributions in nats, or
            one minus the cosine of the embeddings for an encoder.
        agreement: share of positions with the same most likely token; None for an encoder.
    """

    mass: float
    density: float
    distance: float
    agreement: float | None


def tradeoff(
    model: Model,
    text: str,
    masses: Sequence[float] = MASSES,
    *,
    policy: Policy | None = None,
    dense: Trace | None = None,
) -> Iterator[Point]:
    """Runs a text under each mass and compares it with the dense run; yields point by point.

    Args:
        policy: everything but the mass; the model's default by default.
        dense: the text's dense run, if it is there already.

    Raises:
        TextError, ModelError: see :func:`saa_core.run`.
    """
    policy = policy or model.spec.policy
    dense = dense or run(model, text, record="summary")
    for mass in masses:
        trace = run(model, text, policy.with_aim("mass", mass), record="summary")
        compared = compare(dense, trace)
        same, kl, cosine = compared.top1_agreement, compared.kl, compared.embedding_cosine
        yield Point(
            mass=mass,
            density=1.0 - trace.sparsity,
            distance=1.0 - cosine if kl is None else float(kl.mean()),
            agreement=None if same is None else float(same.mean()),
        )


def knee(points: Sequence[Point]) -> int:
    """Index of the point that bends most: farthest under the line from the first to the last.

    Both axes are scaled to [0, 1]; the points are ordered by density.
    """
    x = np.array([point.density for point in points])
    y = np.array([point.distance for point in points])
    x = (x - x.min()) / max(float(np.ptp(x)), 1e-12)
    y = (y - y.min()) / max(float(np.ptp(y)), 1e-12)
    line = y[0] + (y[-1] - y[0]) * (x - x[0]) / max(float(x[-1] - x[0]), 1e-12)
    return int(np.argmax(line - y))
