"""What every chart shares: the colours of a theme, what they mean, and how much a browser can draw.

Blue is SAA and a kept pair, paler where it is always kept; light grey is a dropped pair, and a darker grey
dense attention; nothing is drawn where the model may not look. Orange is attention received, and nothing else. Browsers freeze on huge charts, so no chart has more than `RECTS` marks.
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
    dense: str
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
    "#7A8088",
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
    "#8D98A5",
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
