"""Which pairs may be computed, and which are: one call's allowed pairs, one layer's decision.

Shapes: B batch, H query heads, Q, K positions, M, S query and key blocks.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Allowed:
    """The pairs that the dense model would compute, for one call.

    Args:
        queries, keys: lengths in tokens. The queries are the last ones of the keys.
        causal: a query sees no later key.
        given: bool [B, 1, Q, K] with True where a pair is allowed; it replaces ``causal``.
            None where the rule alone says it (no padding).
        bounds: first and last key that each query sees, int32 [B or 1, Q] each, in place of both:
            texts that stand behind each other.
    """

    queries: int
    keys: int
    causal: bool
    device: torch.device
    given: Tensor | None = None
    bounds: tuple[Tensor, Tensor] | None = None

    @cached_property
    def mask(self) -> Tensor | None:
        """The pairs one by one, bool [B or 1, 1, Q, K]; None where ``causal`` alone says it.

        What everybody reads who cannot work with ``intervals``: made from the bounds when it is first
        asked for.
        """
        if self.bounds is None:
            return self.given
        first, last = (bound[:, None, :, None] for bound in self.bounds)
        keys = torch.arange(self.keys, device=self.device)
        return (keys >= first) & (keys <= last)

    @cached_property
    def pairs(self) -> Tensor:
        """bool [B or 1, 1, Q, K]."""
        if self.mask is not None:
            return self.mask
        q = torch.arange(self.keys - self.queries, self.keys, device=self.device)[:, None]
        k = torch.arange(self.keys, device=self.device)
        allowed = q >= k if self.causal else torch.ones_like(q >= k)
        return allowed[None, None]

    @cached_property
    def seen_keys(self) -> Tensor | None:
        """Keys that any query may see, bool [B, K]; None is all."""
        return None if self.mask is None else self.mask.any(2)[:, 0]

    @cached_property
    def real_queries(self) -> Tensor:
        """Queries that are tokens of a text, bool [B or 1, Q]. Padding may see keys, but nobody sees it."""
        if self.seen_keys is None:
            return torch.ones(1, self.queries, dtype=torch.bool, device=self.device)
        return self.seen_keys[:, self.keys - self.queries :]

    @cached_property
    def intervals(self) -> tuple[Tensor, Tensor] | None:
        """First and last visible key of each query, int32 [B or 1, Q] each (last < first: none).

        None if some query sees keys with a gap in between, which no padding or window makes.
        """
        if self.bounds is not None:
            return self.bounds
        k = torch.arange(self.keys, device=self.device, dtype=torch.int32)
        if self.mask is None:
            q = torch.arange(self.queries, device=self.device, dtype=torch.int32)
            last = q + (self.keys - self.queries) if self.causal else q * 0 + self.keys - 1
            return torch.zeros_like(last)[None], last[None]
        seen = self.mask[:, 0]
        first = seen.int().argmax(-1).int()
        last = first + seen.sum(-1, dtype=torch.int32) - 1
        spans = (k >= first[..., None]) & (k <= last[..., None])
        return (first, last) if bool((spans == seen).all()) else None

    def count(self, block: tuple[int, int]) -> Tensor:
        """Allowed pairs per block, int32 [B or 1, 1, M, S]."""
        bq, bk = block
        if block == (1, 1):
            return self.pairs.int()
        M, S = math.ceil(self.queries / bq), math.ceil(self.keys / bk)
        if self.mask is None:
            return self._count_by_rule(block, M, S)
        padded = torch.nn.functional.pad(
            self.pairs, (0, S * bk - self.keys, 0, M * bq - self.queries)
        )
        return padded.view(-1, 1, M, bq, S, bk).sum((3, 5), dtype=torch.int32)

    def _count_by_rule(self, block: tuple[int, int], M: int, S: int) -> Tensor:
        bq, bk = block
        q = torch.arange(M * bq, device=self.device)
        start = torch.arange(S, device=self.device) * bk
        end = (start + bk).clamp(max=self.keys)
        last = q[:, None] + (self.keys - self.queries) + 1 if self.causal else end[None]
        visible = (torch.minimum(end[None], last) - start).clamp(min=0)
        visible = visible.expand(M * bq, S) * (q < self.queries)[:, None]
        return visible.view(M, bq, S).sum(1, dtype=torch.int32)[None, None]


@dataclass(frozen=True)
class Decision:
    """Which blocks of pairs are kept, in one layer. Never depends on how it is executed.

    Args:
        block: (queries, keys) per block in tokens; (1, 1) is pair by pair.
        keep: bool [B, H, M, S]; only blocks with at least one allowed pair.
        score: predicted mass of each block, averaged over its queries, [B, H, M, S].
        threshold: a block that is not forced is kept if its score reaches this, [B, H, M].
        forced: reason code per block that is kept in any case, or EXCLUDED or TOKEN; uint8
            [B or 1, 1 or H, M, S], 0 = none.
        count: allowed pairs per block, int32 [B or 1, 1, M, S].
        target: what the rule aimed at in this layer, calibration included; NaN if unknown.
    """

    block: tuple[int, int]
    keep: Tensor
    score: Tensor
    threshold: Tensor
    forced: Tensor
    count: Tensor
    target: float = math.nan

    @property
    def density(self) -> Tensor:
        """Kept share of the allowed pairs, [B, H]."""
        kept = (self.keep * self.count).sum((2, 3), dtype=torch.float64)
        return (kept / self.count.sum((2, 3)).clamp(min=1)).float()

    @property
    def predicted_mass(self) -> Tensor:
        """The gate's estimate of the kept share of attention mass, mean over rows, [B, H]."""
        return self.row_mean(self.predicted_rows)

    @property
    def predicted_rows(self) -> Tensor:
        """The gate's estimate of the kept share of attention mass, by query block, [B, H, M]."""
        return (self.score * self.keep).sum(3)

    def row_mean(self, value_BHM: Tensor) -> Tensor:
        """Mean over the query blocks in which any pair is allowed, [B, H]."""
        rows = (self.count.sum(3) > 0).float()
        return (value_BHM * rows).sum(2) / rows.sum(2).clamp(min=1)

    def pair_keep(self, allowed: Allowed) -> Tensor:
        """The decision as single pairs, bool [B, H, Q, K]."""
        return expand(self.keep, self.block, allowed.queries, allowed.keys) & allowed.pairs


def expand(blocks: Tensor, block: tuple[int, int], queries: int, keys: int) -> Tensor:
    """[..., M, S] per block to [..., Q, K] per pair."""
    if block == (1, 1):
        return blocks
    wide = blocks.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return wide[..., :queries, :keys]
