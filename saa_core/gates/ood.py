"""How far a text is from those that gates were trained on, by what the first layer's gate sees of it.

A text is described by the queries of the first layer, where nothing has been left out yet, so that neither
policy nor gate can blur it: per head, the mean and the spread over the text of the logarithm of each
rotated pair's energy (position embedding turns a pair and leaves its length alone). The distance is that of
Mahalanobis, as for features of networks in Lee et al. (arXiv 1807.03888). It is an estimate: a text may be far
and harmless, or near and hard.

Fitted and calibrated in train/ood.py, stored with the gates.

Shapes: B batch, H query heads, Q positions, D head size, F = H D features.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from saa_core.errors import GateError

QUIET = 1e-9
"""Floor of an energy and of the variance of its logarithm."""


def features(q_BHQD: Tensor, real_BQ: Tensor) -> Tensor:
    """Mean and logarithm of the spread of each pair's log-energy over the queries, float32 [B, F].

    Args:
        real_BQ: queries that count, bool; padding does not. A text without any gives zeros.
    """
    half = q_BHQD.shape[-1] // 2
    q_BHQD = q_BHQD.float()
    energy = q_BHQD[..., :half].square() + q_BHQD[..., half : 2 * half].square()
    log_BHQE = energy.clamp_(min=QUIET).log_()
    weight = real_BQ[:, None, :, None].float()
    count = weight.sum(2).clamp(min=1.0)
    mean = (log_BHQE * weight).sum(2) / count
    spread = ((log_BHQE - mean[:, :, None]).square() * weight).sum(2) / count
    return torch.cat([mean, 0.5 * spread.clamp(min=QUIET).log()], -1).flatten(1)


def distance(features_BF: Tensor, mean_F: Tensor, whiten_FF: Tensor) -> Tensor:
    """Root mean square of the whitened features, [B]; infinite where they are no numbers."""
    device = features_BF.device
    away_BF = (features_BF - mean_F.to(device)) @ whiten_FF.to(device)
    return away_BF.square().mean(1).sqrt().nan_to_num(torch.inf, torch.inf)


@dataclass(frozen=True, eq=False)
class OodDetector:
    """Mean and covariance of the training texts' features, and the distance above which a text is far.

    Args:
        mean: of the features, float32 [F].
        whiten: makes the features of such texts uncorrelated and of unit variance, float32 [F, F].
        lengths: in tokens, ascending: shorter texts than the first are not judged.
        limits: the distance that one in a thousand held-out windows of each length exceeds; between two
            lengths by the logarithm of the length, and the last one beyond.
        about: texts, windows, command, and how often held-out texts were over the limit.

    Raises:
        GateError: the parts do not fit together.
    """

    mean: Tensor
    whiten: Tensor
    lengths: tuple[int, ...]
    limits: tuple[float, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        object.__setattr__(self, "limits", tuple(self.limits))
        F = len(self.mean)
        if self.whiten.shape != (F, F):
            raise GateError(f"whiten has shape {list(self.whiten.shape)}, expected [{F}, {F}]")
        if len(self.lengths) != len(self.limits) or not self.lengths:
            raise GateError(f"limits={self.limits!r}: one is needed for each of {self.lengths}")
        if sorted(set(self.lengths)) != list(self.lengths) or self.lengths[0] < 1:
            raise GateError(f"lengths={self.lengths!r} must be ascending, each 1 or more")
        if not all(math.isfinite(limit) and limit > 0 for limit in self.limits):
            raise GateError(f"limits={self.limits!r} must be finite numbers above 0")

    def distance(self, features_BF: Tensor) -> Tensor:
        """How far texts are, [B]: about 1 for texts like those that it was fitted to; infinite where the
        queries are no numbers."""
        return distance(features_BF, self.mean, self.whiten)

    def limit(self, length: int) -> float:
        """The distance from which a text of so many tokens is far; infinite where it is too short."""
        if length < self.lengths[0]:
            return math.inf
        for at in range(1, len(self.lengths)):
            below, above = self.lengths[at - 1], self.lengths[at]
            if length < above:
                share = math.log(length / below) / math.log(above / below)
                return self.limits[at - 1] + share * (self.limits[at] - self.limits[at - 1])
        return self.limits[-1]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the tensors, for JSON."""
        known = asdict(self)
        return {name: known[name] for name in ("lengths", "limits", "about")}
