"""The learned gate: queries and keys -> predicted attention mass per block of pairs.

It sees the queries and keys of one layer, after rotary embedding, and how many pairs are allowed. One set of weights serves every block size down
to single pairs, because a block is described by pooled statistics (a single key is its own mean,
maximum and minimum) and by the number of keys it holds.

Scores are low-rank products of a few query rows per block and pooled keys, in the spirit of
SeerAttention (arXiv 2410.13276), with a learned bias for distance and for the first block.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, D head size, R gate rank,
M, S query and key blocks, P pooled query rows (a few per query block).
"""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from saa_core import native
from saa_core.errors import PolicyError
from saa_core.gates.defaults import MassTable
from saa_core.gates.ood import OodDetector
from saa_core.gates.reliability import MassCalibrator
from saa_core.native.scoring import scores
from saa_core.pairs import Allowed
from saa_core.types import Policy

DISTANCE_BUCKETS = 28
POOLED = 16
"""Neighbouring queries that share one score row by default."""


@dataclass(frozen=True)
class GateConfig:
    """Shape of one layer's gate: H query heads, G key/value heads, D head size, R rank.

    Args:
        directed: the distance bias tells keys behind the query from keys ahead of it (encoders).
        pooled: neighbouring queries that share one score row; their mean and their middle row
            describe them. Fewer see more and cost more.

    Raises:
        PolicyError: ``pooled`` is no whole number >= 1.
    """

    heads: int
    key_heads: int
    head_size: int
    rank: int = 64
    directed: bool = False
    pooled: int = POOLED

    def __post_init__(self) -> None:
        if not isinstance(self.pooled, int) or self.pooled < 1:
            raise PolicyError(f"pooled={self.pooled!r} must be a whole number >= 1")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LayerSlack:
    """Calibration of one layer: sensitive layers may miss less than the policy says, robust ones more.

    Args:
        slack: predicted mass that this layer may miss, as a multiple of what the policy lets it miss.
        share: pairs that this layer needs, as a multiple of the mean over the layers.
        pairwise: measured pair by pair; otherwise in blocks. It is used for that granularity only.
    """

    slack: float = 1.0
    share: float = 1.0
    pairwise: bool = False


class PairGate(nn.Module):
    """Predicts which share of a query's attention falls on each key block.

    Parameters: ``query`` [H, 2 D, R], ``key`` [G, 3 D, R], ``distance`` [H, buckets], ``first`` [H].
    ``layer`` is the position of its attention module in the model, one of ``layers``. A fresh gate scores
    with a random projection of the means, much like mean-pooled keys; it is useful only for training.

    Args:
        draw: where the random numbers come from; torch's global generator by default.
    """

    def __init__(
        self,
        config: GateConfig,
        layer: int = 0,
        layers: int = 1,
        draw: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.layers = layers
        self.calibration = LayerSlack()
        self.mass_calibrators: dict[
            bool, MassCalibrator
        ] = {}  # pair by pair (True) and in blocks (False)
        self.ood_detector: OodDetector | None = None  # of the first layer's gate
        self.defaults: MassTable | None = None
        self.id = "untrained"
        self.damaged = False  # on purpose (explain/damage.py)
        H, G, D, R = config.heads, config.key_heads, config.head_size, config.rank
        self.query = nn.Parameter(torch.randn(H, 2 * D, R, generator=draw) * 0.02)
        self.key = nn.Parameter(torch.randn(G, 3 * D, R, generator=draw) * 0.02)
        self.distance = nn.Parameter(
            torch.zeros(H, DISTANCE_BUCKETS * (2 if config.directed else 1))
        )
        self.first = nn.Parameter(torch.zeros(H))
        # A shared orthogonal projection of the means: at first a score is about mean(q) . mean(k).
        square = torch.randn(max(D, R), max(D, R), generator=draw)
        basis = torch.linalg.qr(square).Q[:D, :R]
        with torch.no_grad():
            self.query[:, :D] += basis * math.sqrt(max(D / R, 1.0))
            self.key[:, :D] += basis

    @property
    def pooled(self) -> int:
        """Neighbouring queries that share one score row."""
        return self.config.pooled

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(layers, query heads, key heads, head size): what its model's attention costs depends on."""
        config = self.config
        return self.layers, config.heads, config.key_heads, config.head_size

    @property
    def sound(self) -> bool:
        """False where a weight is not finite; the scores can be finite nevertheless."""
        return all(bool(weight.isfinite().all()) for weight in self.parameters())

    def resolve(self, policy: Policy, length: int) -> Policy:
        """The policy with numbers for what it leaves to a default, for a text of ``length`` tokens."""
        table = self.defaults
        mass = None if table is None else table.mass(length, policy.block_for(length))
        return policy.resolved(length, causal=not self.config.directed, mass=mass)

    def target(self, policy: Policy, block: tuple[int, int]) -> float:
        """Target of the policy's rule in this layer, calibration included (a mass or a density)."""
        fits = self.calibration.pairwise == (block == (1, 1))
        calibration = self.calibration if fits else LayerSlack()
        if policy.budget is None:
            return max(0.0, 1.0 - (1.0 - policy.aim) * calibration.slack)
        share = calibration.share if policy.budget_over == "call" else 1.0
        return min(policy.aim * share, 1.0)

    def mass_map(self, block: tuple[int, int]) -> MassCalibrator | None:
        """Correction of predicted mass for blocks of this size; None if it was not measured."""
        return self.mass_calibrators.get(block == (1, 1))

    def forward(self, q_BHQD: Tensor, k_BGKD: Tensor, allowed: Allowed, grid: "Grid") -> Tensor:
        """Predicted attention mass per block, averaged over the block's queries.

        Returns:
            float32 [B, H, M, S]; a row sums to 1, or to 0 where it has no allowed pair.
        """
        B, H, _, D = q_BHQD.shape
        G, R = self.config.key_heads, self.config.rank
        weights = (self.query, self.key, self.distance, self.first)
        if grid.whole and R % 16 == 0 and native.serves(q_BHQD, k_BGKD, *weights):
            return scores(
                *(q_BHQD, k_BGKD, weights, allowed.seen_keys, grid.bucket(self.config.directed)),
                *(grid.log_visible, grid.first, grid.block, grid.share),
            )
        pooled_BHPE = pool_queries(q_BHQD, grid).to(self.query.dtype)
        query_BHPR = pooled_BHPE @ (self.query / math.sqrt(D))
        key_BGSR = pool_keys(k_BGKD, allowed, grid.block[1]).to(self.key.dtype) @ self.key
        P, S, share = query_BHPR.shape[2], key_BGSR.shape[2], grid.share
        grouped = query_BHPR.reshape(B, G, H // G * P, R)
        score_BHPS = (grouped @ key_BGSR.transpose(-1, -2)).view(B, H, P, S).float()
        bucket = grid.bucket(self.config.directed).long().view(1, -1).expand(H, -1)
        bias_HPS = self.distance.float().gather(1, bucket)
        score_BHPS = score_BHPS + bias_HPS.view(H, P, S) + grid.log_visible
        if grid.first is None:  # the first key is key 0 for every batch item and query
            score_BHPS[..., 0] += self.first.float()[:, None]
        else:
            score_BHPS = score_BHPS + self.first.float()[:, None, None] * grid.first
        if grid.seen is None:
            return score_BHPS.softmax(-1).view(B, H, P // share, share, S).mean(3)
        mass_BHPS = score_BHPS.masked_fill(~grid.seen, 0.0).softmax(-1)
        weight = grid.seen.float().view(-1, 1, P // share, share, 1)
        total = (mass_BHPS.view(B, H, P // share, share, S) * weight).sum(3)
        return total / weight.sum(3).clamp(min=1.0)


@dataclass(frozen=True)
class Grid:
    """Geometry of the blocks to score; the same for all layers of one call.

    Args:
        block: (queries, keys) per block in tokens.
        share: pooled query rows per query block: one for every ``pooled`` queries, where these
            divide the block.
        groups: index of each pooled row, int64 [P]; row i pools the queries of group i.
        position: the middle query of each group, int64 [P].
        away: tokens from the query to the middle of the block, behind it negative, [P, S].
        log_visible: logarithm of the number of keys per block that the middle query may see, so
            that blocks of all sizes compare; [B or 1, 1, P, S], -inf where it sees none.
        first: 1 for the block that holds the first visible key, [B, 1, P, S]; None: block 0.
        seen: True where the query has an allowed pair at all, [B, 1, P, 1]; None: everywhere.
        whole: every query block is there, in order.
    """

    block: tuple[int, int]
    share: int
    groups: Tensor
    position: Tensor
    away: Tensor
    log_visible: Tensor
    first: Tensor | None
    seen: Tensor | None
    whole: bool

    def bucket(self, directed: bool) -> Tensor:
        """Logarithmic distance between query and block, int32 [P, S]: index of a gate's bias."""
        return self._directed if directed else self._distance

    @cached_property
    def _distance(self) -> Tensor:
        steps = (2 * torch.log2(1 + self.away.abs())).int()
        return steps.clamp(max=DISTANCE_BUCKETS - 1)

    @cached_property
    def _directed(self) -> Tensor:
        return self._distance + DISTANCE_BUCKETS * (self.away > 0).int()


def grid(
    allowed: Allowed, block: tuple[int, int], rows: Tensor | None = None, *, pooled: int = POOLED
) -> Grid:
    """Computes the geometry of the blocks over the allowed pairs.

    Args:
        rows: query blocks to score, int64 [M'], all of them by default (training samples some).
        pooled: of the gate's configuration.
    """
    bq, bk = block
    share = bq // math.gcd(bq, pooled)
    size = bq // share
    groups = torch.arange(math.ceil(allowed.queries / bq) * share, device=allowed.device)
    if rows is not None:
        groups = (rows[:, None] * share + groups[:share]).flatten()
    # Groups beyond the end repeat the last query; they are few and weigh like their neighbours.
    position = (groups * size + size // 2).clamp(max=allowed.queries - 1)
    visible = visible_keys(allowed, position, bk)
    centre = torch.arange(visible.shape[-1], device=allowed.device) * bk + (bk - 1) / 2
    away = centre - (position[:, None] + (allowed.keys - allowed.queries))
    first = seen = None
    if allowed.mask is not None:
        first = ((visible > 0).any(-2, keepdim=True).int().cumsum(-1) == 1).float()
        seen = (visible > 0).any(-1, keepdim=True)
    return Grid(block, share, groups, position, away, visible.log(), first, seen, rows is None)


def pool_queries(q_BHQD: Tensor, grid: Grid) -> Tensor:
    """Mean and middle row of each group of neighbouring queries, [B, H, P, 2 D]."""
    middle = q_BHQD[:, :, grid.position]
    size = grid.block[0] // grid.share
    if size == 1:
        return torch.cat([middle, middle], -1)
    missing = -q_BHQD.shape[2] % grid.block[0]
    if missing:
        q_BHQD = torch.cat([q_BHQD, q_BHQD[:, :, -1:].expand(-1, -1, missing, -1)], 2)
    members = q_BHQD.unflatten(2, (-1, size))
    if len(grid.groups) < members.shape[2]:
        members = members[:, :, grid.groups]
    return torch.cat([members.mean(3), middle], -1)


def pool_keys(k_BGKD: Tensor, allowed: Allowed, bk: int) -> Tensor:
    """Mean, maximum and minimum over each key block, keys that nobody may see left out.

    Returns:
        [B, G, S, 3 D].
    """
    if bk == 1:
        return torch.cat([k_BGKD, k_BGKD, k_BGKD], -1)
    K = k_BGKD.shape[2]
    missing = -K % bk
    if allowed.mask is None and not missing:
        members = k_BGKD.unflatten(2, (-1, bk))
        return torch.cat([members.mean(3), members.amax(3), members.amin(3)], -1)
    valid = torch.ones(1, 1, K, 1, dtype=torch.bool, device=k_BGKD.device)
    if allowed.seen_keys is not None:
        valid = allowed.seen_keys[:, None, :, None]
    valid = pad(valid, (0, 0, 0, missing)).unflatten(2, (-1, bk))
    members = pad(k_BGKD, (0, 0, 0, missing)).unflatten(2, (-1, bk))
    count = valid.sum(3)
    mean = (members * valid).sum(3) / count.clamp(min=1)
    highest = members.masked_fill(~valid, -torch.inf).amax(3).masked_fill(count == 0, 0.0)
    lowest = members.masked_fill(~valid, torch.inf).amin(3).masked_fill(count == 0, 0.0)
    return torch.cat([mean, highest, lowest], -1)


def visible_keys(allowed: Allowed, position: Tensor, bk: int) -> Tensor:
    """Number of keys per block that the query at each position may see, float32 [B or 1, 1, P, S]."""
    S = math.ceil(allowed.keys / bk)
    if allowed.mask is not None:
        rows = pad(allowed.mask[:, :, position], (0, S * bk - allowed.keys))
        count: Tensor = rows.unflatten(-1, (S, bk)).sum(-1, dtype=torch.float32)
        return count
    start = torch.arange(S, device=position.device) * bk
    end = (start + bk).clamp(max=allowed.keys)
    if allowed.causal:
        last = position[:, None] + allowed.keys - allowed.queries + 1
        end = torch.minimum(end, last)
    else:
        end = end.expand(len(position), S)
    return (end - start).clamp(min=0).float()[None, None]
