"""Other ways to predict attention mass, in the place of the learned gate.

Each scorer takes what a `PairGate` takes and gives what it gives, so that blocks, forced pairs, rule
and kernel are the same for all and only the scores differ. Known methods are written down from
their papers for query blocks instead of single queries.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, D head size, M, S blocks, P pooled
query rows.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from saa_core.gates.pair import POOLED, Grid, PairGate, pool_keys, pool_queries
from saa_core.pairs import Allowed
from saa_core.train.distil import block_mass
from saa_core.types import Policy

SLICE = 16
"""Query blocks whose true mass is computed at once."""


class Scorer(nn.Module):
    """Base: stands where a gate stands, and is asked like one.

    Args:
        gate: whose place it takes.
    """

    def __init__(self, gate: PairGate) -> None:
        super().__init__()
        self.layer, self.layers, self.config = gate.layer, gate.layers, gate.config

    pooled = POOLED

    def resolve(self, policy: Policy, length: int) -> Policy:
        return policy.resolved(length, causal=True)

    def target(self, policy: Policy, block: tuple[int, int]) -> float:
        return policy.aim

    def mass_map(self, block: tuple[int, int]) -> None:
        """No scorer has had its word corrected."""

    def forward(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: Grid) -> Tensor:
        """Predicted mass per block, [B, H, M, S]."""
        scores_BHPS = self.rows(q_BHQD, k_BGKD, allowed, grid)
        mass = (scores_BHPS + grid.log_visible).softmax(-1)
        return mass.unflatten(2, (-1, grid.share)).mean(3)

    def rows(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: Grid) -> Tensor:
        """Scores of pooled query rows before the softmax, [B, H, P, S]."""
        raise NotImplementedError


def repeat_heads(x_BGSE: Tensor, heads: int) -> Tensor:
    return x_BGSE.repeat_interleave(heads // x_BGSE.shape[1], 1)


class MeanKeys(Scorer):
    """Mean query times mean key, as MoBA routes (arXiv 2502.13189)."""

    def rows(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: Grid) -> Tensor:
        D = q_BHQD.shape[-1]
        mean_q = pool_queries(q_BHQD, grid)[..., :D]
        mean_k = repeat_heads(pool_keys(k_BGKD, allowed, grid.block[1])[..., :D], q_BHQD.shape[1])
        return mean_q @ mean_k.transpose(-1, -2) * D**-0.5


class UpperBound(Scorer):
    """The largest product that a key between minimum and maximum could have: Quest (arXiv 2406.10774)."""

    def rows(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: Grid) -> Tensor:
        D = q_BHQD.shape[-1]
        mean_q = pool_queries(q_BHQD, grid)[..., :D]
        pooled = repeat_heads(pool_keys(k_BGKD, allowed, grid.block[1]), q_BHQD.shape[1])
        most, least = pooled[..., D : 2 * D], pooled[..., 2 * D :]
        bound = mean_q.relu() @ most.transpose(-1, -2)
        bound = bound - (-mean_q).relu() @ least.transpose(-1, -2)
        return bound * D**-0.5


class Antidiagonal(Scorer):
    """Products along antidiagonals of stride 8, softmax, summed per block: XAttention (arXiv 2503.16428)."""

    stride = 8

    def forward(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: Grid) -> Tensor:
        _, H, Q, D = q_BHQD.shape
        step, (bq, bk) = self.stride, grid.block
        M, S = -(-Q // bq), -(-allowed.keys // bk)
        q = pad(q_BHQD, (0, 0, 0, M * bq - Q)).unflatten(2, (-1, step)).flip(3).flatten(3)
        k = pad(k_BGKD, (0, 0, 0, S * bk - allowed.keys)).unflatten(2, (-1, step)).flatten(3)
        scores = q @ repeat_heads(k, H).transpose(-1, -2) / (step * D**0.5)
        rows = torch.arange(scores.shape[2])[:, None]
        scores = scores.masked_fill(torch.arange(scores.shape[3]) > rows, -torch.inf)
        cells = scores.softmax(-1).unflatten(3, (S, -1)).sum(4)
        return cells.unflatten(2, (M, -1)).mean(3) * (allowed.count(grid.block) > 0)


class Random(Scorer):
    """Chance, the same for every run."""

    def rows(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: Grid) -> Tensor:
        draw = torch.Generator().manual_seed(self.layer)
        return torch.rand(*q_BHQD.shape[:2], *grid.away.shape, generator=draw) * 4


class Oracle(Scorer):
    """The true mass of every block: what no scorer can beat block by block."""

    def forward(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: Grid) -> Tensor:
        scale, (bq, bk) = q_BHQD.shape[-1] ** -0.5, grid.block
        total = len(grid.groups) // grid.share
        last = allowed.intervals[1].amax(0) if allowed.intervals else None
        parts = []
        for part in torch.arange(total).split(SLICE):
            # No key behind the last one that these queries see: half of the work in causal models.
            rows = slice(int(part[0]) * bq, (int(part[-1]) + 1) * bq)
            keys = allowed.keys if last is None else int(last[rows].max()) + 1
            seen = replace(allowed, keys=keys, given=allowed.pairs[..., :keys], bounds=None)
            mass = block_mass(q_BHQD, k_BGKD[:, :, :keys], seen, grid.block, part, scale)
            parts.append(pad(mass, (0, -(-allowed.keys // bk) - mass.shape[-1])))
        return torch.cat(parts, 2)


SCORERS: dict[str, Callable[[PairGate], Scorer]] = {
    "oracle": Oracle,
    "mean keys": MeanKeys,
    "antidiagonal": Antidiagonal,
    "upper bound": UpperBound,
    "random": Random,
}


def swap(modules: list[nn.Module], name: str) -> list[PairGate]:
    """Puts a scorer in the place of each gate; returns the gates, to be put back by `restore`."""
    gates = [module.saa_gate for module in modules]
    for module, gate in zip(modules, gates, strict=True):
        del module.saa_gate
        module.saa_gate = SCORERS[name](gate)
    return gates


def restore(modules: list[nn.Module], gates: list[PairGate]) -> None:
    for module, gate in zip(modules, gates, strict=True):
        module.saa_gate = gate
