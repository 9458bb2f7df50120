"""Rule "budget": the best blocks of a layer within a share of its pairs."""

import torch
from torch import Tensor

from saa_core.rules.forced import without_excluded

BITS = 31
"""Halvings after which one number of those from 0 to the largest score is left."""


def budget(score: Tensor, forced: Tensor, count: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """The blocks with the highest scores, over all heads and rows, within a share of the pairs.

    Forced blocks are paid for first. At most ``target`` of the allowed pairs are kept, unless the
    forced ones alone are more; blocks of equal score are kept together or not at all.

    Args and returns: those of :func:`mass`; ``target`` is the share of allowed pairs in (0, 1].
    """
    score, forced, allowed_pairs = without_excluded(score, forced, count)
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
    for _ in range(BITS):  # a fixed number, so that nobody waits for a GPU
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
