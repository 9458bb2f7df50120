"""Scores -> keep. One function per rule; all of them see scores only, never a model or a kernel.

Shapes: B batch, H heads, M query blocks, S key blocks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saa_core import native
from saa_core.errors import PolicyError
from saa_core.native.scoring import top_p
from saa_core.types import EXCLUDED, FORCED, LOCAL, SINK, Allowed, Force, Policy


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


def forced_by_person(
    codes: Tensor,
    count: Tensor,
    allowed: Allowed,
    entries: Sequence[Force],
    block: tuple[int, int],
    heads: int,
) -> Tensor:
    """The codes of :func:`forced` with what a person says about one layer.

    Args:
        codes, count: uint8 and int32 [B or 1, 1, M, S].

        entries: those of the layer, whatever their ``layer`` says.

    Returns:
        the same codes if there are no entries, else a copy, uint8 [B or 1, H, M, S].

    Raises:
        PolicyError: a head or a position does not exist.
    """
    for entry in entries:
        for name, size in (("head", heads), ("query", allowed.keys), ("key", allowed.keys)):
            value = getattr(entry, name)
            if value is not None and value >= size:
                raise PolicyError(f"force: {name}={value} does not exist; choose 0 to {size - 1}")
    if not entries:
        return codes
    bq, bk = block
    M, S = codes.shape[-2:]
    offset = allowed.keys - allowed.queries
    q0 = torch.arange(M, device=codes.device)[:, None] * bq + offset
    k0 = torch.arange(S, device=codes.device)[None] * bk
    own = (q0 <= k0 + bk - 1) & (k0 <= q0 + bq - 1)
    codes = codes.expand(-1, heads, -1, -1).clone()
    for entry in entries:
        hit = torch.ones(1, heads, M, S, dtype=torch.bool, device=codes.device)
        if entry.head is not None:
            hit &= torch.arange(heads, device=codes.device)[:, None, None] == entry.head
        if entry.query is not None:
            hit &= (q0 <= entry.query) & (entry.query < q0 + bq)
        if entry.key is not None:
            hit &= (k0 <= entry.key) & (entry.key < k0 + bk)
        if not entry.keep:
            hit &= ~own
        codes[hit.expand_as(codes)] = FORCED if entry.keep else EXCLUDED
    return codes * (count > 0)


def _first_key(allowed: Allowed) -> Tensor:
    """Position of the first key that any query of the batch item may see, [B or 1]."""
    if allowed.mask is None:
        return torch.zeros(1, dtype=torch.long, device=allowed.device)
    return allowed.mask[:, 0].any(1).int().argmax(-1)


def mass(score: Tensor, forced: Tensor, count: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """Top-p: the fewest highest scores that, with the forced ones, hold ``target`` of the mass.

    Args:
        score: predicted mass, [B, H, M, S], zero where no pair is allowed.
        forced: nonzero where a block is kept in any case, EXCLUDED where it is dropped in any
            case, [B or 1, 1 or H, M, S].
        count: allowed pairs per block, [B or 1, 1, M, S].
        target: share of the predicted mass in (0, 1]; 1.0 means all, not a sum that rounds to it.

    Returns:
        keep, bool [B, H, M, S], and threshold [B, H, M]: the lowest score that is kept.
    """
    score, forced, count = _without_excluded(score, forced, count)
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


def budget(score: Tensor, forced: Tensor, count: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """The blocks with the highest scores, over all heads and rows, within a share of the pairs.

    Forced blocks are paid for first. At most ``target`` of the allowed pairs are kept, unless the
    forced ones alone are more; blocks of equal score are kept together or not at all.

    Args and returns: those of :func:`mass`; ``target`` is the share of allowed pairs in (0, 1].
    """
    score, forced, allowed_pairs = _without_excluded(score, forced, count)
    if target >= 1.0:
        return (allowed_pairs > 0).expand_as(score), torch.zeros_like(score[..., 0])
    is_forced = (forced > 0).expand_as(score)
    cost = allowed_pairs.expand_as(score)
    paid = (cost * is_forced).sum((1, 2, 3), dtype=torch.int64)
    left = (target * count.expand_as(score).sum((1, 2, 3), dtype=torch.float64)).long() - paid
    open_cost = cost.masked_fill(is_forced, 0).flatten(1)
    # Scores are not negative, so their bits are ordered as they are: halve the range of bits.
    bits = score.detach().float().contiguous().view(torch.int32).flatten(1)
    low = torch.zeros_like(left)
    high = bits.amax(1).long() + 1
    while bool((low < high).any()):
        middle = (low + high) // 2
        spent = (open_cost * (bits >= middle[:, None])).sum(1, dtype=torch.int64)
        fits = spent <= left
        high = torch.where(fits, middle, high)
        low = torch.where(fits, low, torch.minimum(middle + 1, high))
    enough = (bits >= high[:, None]).view_as(score)
    keep = (enough | is_forced) & (allowed_pairs > 0)
    # The bar is the same everywhere: the lowest score that is still in.
    lowest = score.masked_fill(~enough, torch.inf).amin((1, 2, 3))
    return keep, lowest[:, None, None].expand_as(score[..., 0]).contiguous()


def _without_excluded(
    score: Tensor, forced: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Excluded blocks look to a rule like blocks in which nothing is allowed."""
    excluded = forced == EXCLUDED
    if not bool(excluded.any()):
        return score, forced, count
    shape = torch.broadcast_shapes(forced.shape, count.shape)
    return (
        score.masked_fill(excluded, 0.0),
        forced.masked_fill(excluded, 0),
        count.expand(shape).masked_fill(excluded, 0),
    )


RULES: dict[str, Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "budget": budget,
    "mass": mass,
}
