"""What every chart shares: the colours of a theme, what they mean, and how much a browser can draw.

Blue is a kept pair, paler where it is always kept; grey is a dropped one; nothing is drawn where the
model may not look. Browsers freeze on huge charts, so no chart has more than `RECTS` marks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RECTS = 4096
FORCED = ("sink", "local", "tail", "forced", "probe", "dense")
"""Reasons that keep a pair whatever its score; theirs is the pale blue."""


@dataclass(frozen=True)
class Palette:
    """Okabe and Ito's colours for one theme."""

    kept: str
    kept_always: str
    dropped: str
    received: str
    retained: str
    changed: str
    only_a: str
    only_b: str
    ink: str
    paper: str


LIGHT = Palette(
    "#0072B2",
    "#7FB8D8",
    "#DFE3E7",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#CC79A7",
    "#0D1520",
    "#FFFFFF",
)
DARK = Palette(
    "#56B4E9",
    "#2F6E96",
    "#313842",
    "#E69F00",
    "#2BC498",
    "#CC79A7",
    "#FF8A4C",
    "#E3A1C4",
    "#E6EAEE",
    "#12161C",
)


def palette(dark: bool) -> Palette:
    return DARK if dark else LIGHT


def rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.float64)
