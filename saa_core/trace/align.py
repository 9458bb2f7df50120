"""Which token of one text stands for which token of another.

Follows Ratcliff and Obershelp's matching as Python's difflib has it. Both sides stay in order, so a
pair of tokens that may look at each other in one text may do so in the other.
"""

import difflib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A stretch in which two texts differ: tokens of each, the ends not included."""

    first: tuple[int, int]
    second: tuple[int, int]


@dataclass(frozen=True)
class Alignment:
    """Tokens of two texts that stand for each other.

    Args:
        first, second: positions, ascending, one for one.
        changed: True where the two tokens differ: one was put in the other's place.
        edits: where the texts differ; empty if they are the same.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    changed: tuple[bool, ...]
    edits: tuple[Edit, ...]

    @property
    def same(self) -> bool:
        """The two texts have the same tokens."""
        return not self.edits

    def to_second(self, position: int) -> int | None:
        """The second text's token for a token of the first; None if it has none."""
        return dict(zip(self.first, self.second, strict=True)).get(position)

    def to_first(self, position: int) -> int | None:
        """The first text's token for a token of the second; None if it has none."""
        return dict(zip(self.second, self.first, strict=True)).get(position)


def align(first: Sequence[Hashable], second: Sequence[Hashable]) -> Alignment:
    """Aligns two sequences of tokens or token ids.

    Equal tokens stand for each other. So do, one by one, the tokens of a stretch that was replaced by
    one of the same length. Tokens that were put in or taken out stand for none.
    """
    pairs = list[tuple[int, int, bool]]()
    edits = list[Edit]()
    if list(first) == list(second):
        whole = tuple(range(len(first)))
        return Alignment(whole, whole, (False,) * len(whole), ())
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        if kind != "equal":
            edits.append(Edit((a0, a1), (b0, b1)))
        if a1 - a0 == b1 - b0:
            pairs += [(a0 + at, b0 + at, kind != "equal") for at in range(a1 - a0)]
    return Alignment(
        tuple(a for a, _, _ in pairs),
        tuple(b for _, b, _ in pairs),
        tuple(changed for _, _, changed in pairs),
        tuple(edits),
    )
