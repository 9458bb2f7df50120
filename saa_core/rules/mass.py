"""Rule "mass": top-p on predicted attention mass, row by row."""

import torch
from torch import Tensor

from saa_core import native
from saa_core.native.scoring import top_p
from saa_core.rules.forced import without_excluded


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
    score, forced, count = without_excluded(score, forced, count)
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
