"""Which mass a policy gets that names none: by the text's length and by what is decided, as it was calibrated for
a model's gates. Stored with them, and without PyTorch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from saa_core.errors import GateError


@dataclass(frozen=True)
class MassEntry:
    """One calibrated length.

    Args:
        length: tokens of a text.
        block: (queries, keys) per decided block; (1, 1) is pair by pair.
        mass: share of predicted mass to keep, in (0, 1].

    Raises:
        GateError: a value is outside its range.
    """

    length: int
    block: tuple[int, int]
    mass: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", tuple(self.block))
        sizes = (self.length, *self.block)
        whole = len(self.block) == 2 and all(isinstance(x, int) and x >= 1 for x in sizes)
        if not whole or not 0.0 < self.mass <= 1.0:
            raise GateError(
                f"defaults: length={self.length!r}, block={self.block!r}, mass={self.mass!r}; lengths and "
                "blocks are whole numbers of tokens, and a mass is in (0, 1]"
            )


@dataclass(frozen=True)
class MassTable:
    """The default mass of a model's gates.

    Args:
        entries: at least one.
        about: how it was calibrated: command, kinds of texts, limit, interval.

    Raises:
        GateError: it is empty, or says two masses for one length and block.
    """

    entries: tuple[MassEntry, ...]
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        entries = tuple(sorted(self.entries, key=lambda each: (each.block, each.length)))
        object.__setattr__(self, "entries", entries)
        if not entries or len({(e.block, e.length) for e in entries}) < len(entries):
            raise GateError(
                "defaults: entries are missing, or two are of the same length and block"
            )

    def mass(self, length: int, block: tuple[int, int]) -> float | None:
        """The mass for a text: between two lengths along the line over the length's logarithm, outside as
        at the nearest. Blocks that were not calibrated get what the nearest size of block has; None where
        single pairs are decided and only blocks were calibrated, or the other way.
        """
        pairwise = block == (1, 1)
        own = [each for each in self.entries if (each.block == (1, 1)) == pairwise]
        if not own:
            return None
        nearest = min(own, key=lambda each: abs(math.log(math.prod(each.block) / math.prod(block))))
        own = [each for each in own if each.block == nearest.block]
        below = [each for each in own if each.length <= length]
        above = [each for each in own if each.length > length]
        if not below or not above:
            return (below[-1] if below else above[0]).mass
        first, second = below[-1], above[0]
        along = math.log(length / first.length) / math.log(second.length / first.length)
        return round(first.mass + along * (second.mass - first.mass), 4)

    def as_dict(self) -> dict[str, Any]:
        return {"mass": [asdict(each) for each in self.entries], "about": dict(self.about)}

    @classmethod
    def read(cls, about: Mapping[str, Any]) -> "MassTable":
        """From what :meth:`as_dict` gave.

        Raises:
            GateError, TypeError, KeyError: it cannot be one.
        """
        return cls(tuple(MassEntry(**each) for each in about["mass"]), about.get("about", {}))
