"""Progress of the command line as tqdm bars, one per step."""

import sys
from typing import Any, Self

from tqdm import tqdm

SELDOM = 10.0
"""Seconds between two states of a bar that goes to a file, where each one stays."""


def bar(total: int, unit: str = "it", what: str = "", scale: bool = False) -> "tqdm[Any]":
    """A bar on a terminal, which is wiped away when it is done; now and then a state in a file."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what or None,
        unit=unit,
        unit_scale=scale,
        leave=not terminal,
        mininterval=0.1 if terminal else SELDOM,
    )


class Bars:
    """Called with (step, done, total) and, where there is one, a remark; a new step opens a new bar."""

    def __init__(self, unit: str = "") -> None:
        self.bar: tqdm[Any] | None = None
        self.what = ""
        self.unit = unit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, what: str, done: int, total: int, remark: str = "") -> None:
        if self.bar is None or what != self.what:
            self.close()
            scale = not self.unit and total > 100_000  # bytes
            self.bar = bar(total, "B" if scale else self.unit, what, scale)
            self.what = what
        self.bar.total = total  # a step may learn on its way how much there is
        if remark:
            self.bar.set_postfix_str(remark, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None
