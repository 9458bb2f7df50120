"""Calibration of predicted mass: how far it is from the observed mass, and the map that corrects it.

Measured on texts that the gate was not trained on (train/reliability.py), stored with the gate, and
used only where predicted mass is shown: decisions use the uncorrected prediction.

Shapes: B batch, L layers, H query heads, M query blocks.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from saa_core.errors import GateError

SURE = 1e-6
"""Masses this near to 0 or 1 are not corrected."""


@dataclass(frozen=True)
class MassCalibrator:
    """Predicted -> observed mass in one layer: a straight line between their log-odds, head by head.

    Args:
        offset, slope: of the line, H each. Slopes are positive, so that more predicted is never less.
    """

    offset: tuple[float, ...]
    slope: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", tuple(self.offset))
        object.__setattr__(self, "slope", tuple(self.slope))
        if len(self.offset) != len(self.slope) or not all(slope > 0 for slope in self.slope):
            raise GateError(
                f"slope={self.slope!r}: a mass map needs one slope above 0 and one offset per head"
            )

    def __call__(self, predicted_BHM: Tensor) -> Tensor:
        """Corrected mass, [B, H, M]."""
        device = predicted_BHM.device
        offset, slope = (
            torch.tensor(line, device=device)[:, None] for line in (self.offset, self.slope)
        )
        mapped = torch.sigmoid(offset + slope * predicted_BHM.logit(SURE))
        settled = (predicted_BHM <= SURE) | (predicted_BHM >= 1 - SURE)
        return torch.where(settled, predicted_BHM, mapped)


@dataclass(frozen=True)
class Bin:
    """One calibration bin: mean predicted mass, mean observed mass, row count."""

    predicted: float
    observed: float
    rows: int

    @staticmethod
    def from_json(about: Mapping[str, Any]) -> "Bin":
        """A stored bin; before version 0.2 its means were called "said" and "true"."""
        names = {"said": "predicted", "true": "observed"}
        return Bin(**{names.get(name, name): value for name, value in about.items()})


@dataclass(frozen=True)
class Diagram:
    """A reliability diagram: predicted against observed mass, on texts that no calibrator was fitted to.

    Args:
        bins: all layers and heads together, as many rows in each, in the order of ``predicted``.
        error: expected calibration error: mean distance of predicted and observed, in [0, 1].
        heads: the same error head by head, from bins of its own, [L][H].
    """

    bins: tuple[Bin, ...]
    error: float
    heads: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        found = tuple(Bin.from_json(x) if isinstance(x, Mapping) else x for x in self.bins)
        object.__setattr__(self, "bins", found)
        object.__setattr__(self, "heads", tuple(tuple(layer) for layer in self.heads))


@dataclass(frozen=True)
class Reliability:
    """Calibration of predicted mass for one granularity, before and after the correction.

    Args:
        pairwise: decided pair by pair; otherwise in blocks.
        maps: by layer.
        before, after: of the uncorrected and of the corrected prediction.
        about: texts, lengths in tokens, masses and command.
    """

    pairwise: bool
    maps: tuple[MassCalibrator, ...]
    before: Diagram
    after: Diagram
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        maps = tuple(MassCalibrator(**x) if isinstance(x, Mapping) else x for x in self.maps)
        object.__setattr__(self, "maps", maps)
        for name in ("before", "after"):
            value: Any = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, Diagram(**value))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
