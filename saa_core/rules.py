"""Scores -> keep. One function per rule; all of them see scores only, never a model or a kernel.

Shapes: B batch, H heads, M query blocks, S key blocks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from saa_core import native
from saa_core.native.scoring import top_p
from saa_core.types import LOCAL, SINK, Allowed, Policy


def forced(allowed: Allowed, policy: Policy, block: tuple[int, int], count: Tensor) -> Tensor:
    """Blocks that are kept whatever the gate says: sink (first keys) and local (nearest keys).

    A block is forced if it holds one such pair. With padding on the left the first keys are the
    first that the batch item may see, so sinks are counted from there.

    Returns:
        uint8 [B or 1, 1, M, S]: SINK, LOCAL or 0, and 0 where no pair is allowed.
    """
    bq, bk = block
    M, S = count.shape[-2:]
    q0 = torch.arange(M, device=count.device)[:, None] * bq + (allowed.keys - allowed.queries)
    k0 = torch.arange(S, device=count.device)[None] * bk
    first = _first_key(allowed)[:, None, None, None]
    # Nearest pair of the block: |q - k| is 0 where the spans overlap.
    behind = q0 - (k0 + bk - 1)
    ahead = k0 - (q0 + bq - 1)
    gap = torch.maximum(behind, ahead).clamp(min=0)
    sink = (k0 < first + policy.sink) & (k0 + bk > first)
    codes = torch.where(sink, SINK, torch.where(gap < policy.local, LOCAL, 0))
    return (codes * (count > 0)).to(torch.uint8)


def _first_key(allowed: Allowed) -> Tensor:
    """Position of the first key that any query of the batch item may see, [B or 1]."""
    if allowed.mask is None:
        return torch.zeros(1, dtype=torch.long, device=allowed.device)
    return allowed.mask[:, 0].any(1).int().argmax(-1)


def mass(score: Tensor, forced: Tensor, count: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """Top-p: the fewest highest scores that, with the forced ones, hold ``target`` of the mass.

    Args:
        score: predicted mass, [B, H, M, S], zero where no pair is allowed.
        forced: nonzero where a block is kept in any case, [B or 1, 1, M, S].
        count: allowed pairs per block, [B or 1, 1, M, S].
        target: share of the predicted mass in (0, 1]; 1.0 means all, not a sum that rounds to it.

    Returns:
        keep, bool [B, H, M, S], and threshold [B, H, M]: the lowest score that is kept.
    """
    if target >= 1.0:
        return (count > 0).expand_as(score), torch.zeros_like(score[..., 0])
    if native.serves(score):
        return top_p(score, forced, count, target)
    is_forced = forced > 0
    free = score.masked_fill(is_forced, 0.0)
    held = (score - free).sum(-1, keepdim=True)
    wanted = target * score.sum(-1, keepdim=True)
    ranked = free.sort(-1, descending=True).values
    before = ranked.cumsum(-1) - ranked + held
    taken = (before < wanted).sum(-1, keepdim=True)
    lowest = ranked.gather(-1, (taken - 1).clamp(min=0))
    threshold = torch.where(taken > 0, lowest, torch.inf)
    keep = ((free >= threshold) | is_forced) & (count > 0)
    return keep, threshold[..., 0]


RULES: dict[str, Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {"mass": mass}
