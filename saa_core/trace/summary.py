"""What a run did, layer by layer, in facts that can be said in a sentence. Reads a trace; no words here.

Pairs that are always kept (first, nearest, last and forced ones) say nothing about the gate, so a layer
is told by its *far* pairs: those about which the gate had a say.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saa_core.trace.maps import Array
from saa_core.trace.trace import Trace

FEW, MOST = 0.10, 0.90
"""Share of the far pairs up to which a layer counts as looking only nearby, and from which it counts
as looking nearly everywhere."""
KINDS = ("nearby", "choosy", "everywhere")


@dataclass(frozen=True)
class LayerGroup:
    """Layers that behave alike.

    Args:
        kind: "nearby" (hardly any far pair is kept), "choosy", or "everywhere" (nearly all are).
        layers: ascending.
        kept: share of their far pairs that is kept.
    """

    kind: str
    layers: tuple[int, ...]
    kept: float

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The layers as stretches, first and last of each."""
        cuts = [
            at for at in range(1, len(self.layers)) if self.layers[at] != self.layers[at - 1] + 1
        ]
        edges = [0, *cuts, len(self.layers)]
        return [(self.layers[a], self.layers[b - 1]) for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Args:
        groups: the kinds of layers that occur, in the order of ``KINDS``; empty if no pair was far,
            as in a very short text.
        far: share of the allowed pairs about which the gate had a say, over all layers.
        busiest: layer that keeps the largest share of its far pairs, and that share.
        most_read: token that is kept by the largest share of the queries far from it, over all layers
            and heads, and that share; None where no pair was far.
    """

    groups: tuple[LayerGroup, ...]
    far: float
    busiest: tuple[int, float] | None
    most_read: tuple[int, float] | None


def summarise(trace: Trace) -> Summary | None:
    """The facts of a trace; None for a dense run or a summary, which hold no decisions."""
    if trace.policy is None or trace.layers is None:
        return None
    L, H = trace.shape
    far, kept = np.zeros(L), np.zeros(L)
    far_of, kept_of = np.zeros(trace.keys), np.zeros(trace.keys)
    for layer in range(L):
        count = trace.allowed_count(layer)
        for head in range(H):
            open_pairs = np.where(trace.forced_codes(layer, head) == 0, count, 0)
            chosen = np.where(trace.decision(layer, head).keep, open_pairs, 0)
            far[layer] += open_pairs.sum()
            kept[layer] += chosen.sum()
            _add(far_of, open_pairs, trace.block[1])
            _add(kept_of, chosen, trace.block[1])
    if not far.any():
        return Summary((), 0.0, None, None)
    shares = kept / np.maximum(far, 1)
    top = int(shares.argmax())
    read = np.where(far_of >= max(far_of.max() / 10, 1), kept_of / np.maximum(far_of, 1), 0)
    token = int(read.argmax())
    return Summary(
        groups=tuple(_groups(shares, far)),
        far=float(far.sum() / max(int(trace.allowed_pairs.sum()) * H, 1)),
        busiest=(top, float(shares[top])),
        most_read=(token, float(read[token])),
    )


def _add(total: Array, blocks: Array, size: int) -> None:
    """Adds pairs per block to the first token of each key block, so that blocks stay comparable."""
    per_block = blocks.sum(0)
    total[::size][: len(per_block)] += per_block


def _groups(shares: Array, far: Array) -> list[LayerGroup]:
    kinds = np.where(shares <= FEW, 0, np.where(shares < MOST, 1, 2))
    found = []
    for index, kind in enumerate(KINDS):
        layers: Sequence[int] = np.flatnonzero((kinds == index) & (far > 0)).tolist()
        if layers:
            weights = far[list(layers)]
            share = float(np.average(shares[list(layers)], weights=weights))
            found.append(LayerGroup(kind, tuple(layers), share))
    return found
