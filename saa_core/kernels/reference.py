"""The slow, obvious version: every pair is scored, dropped ones are masked. The oracle of the tests.

It saves nothing. It has no limits on shapes, devices or block sizes, and it is differentiable.
"""

import torch
from torch import Tensor

from saa_core.pairs import Allowed, Decision


def reference(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    decision: Decision,
    allowed: Allowed,
    scale: float,
) -> Tensor:
    """Softmax attention over the kept pairs; [B, H, Q, D]."""
    repeats = q_BHQD.shape[1] // k_BGKD.shape[1]
    k_BHKD = k_BGKD.repeat_interleave(repeats, 1)
    v_BHKD = v_BGKD.repeat_interleave(repeats, 1)
    scores_BHQK = (q_BHQD @ k_BHKD.transpose(-1, -2)).float() * scale
    keep_BHQK = decision.pair_keep(allowed)
    # A query without any kept key (padding) attends to everything, then gets zeros: no NaN.
    empty = ~keep_BHQK.any(-1, keepdim=True)
    weights = torch.softmax(scores_BHQK.masked_fill(~(keep_BHQK | empty), -torch.inf), -1)
    return (weights.to(v_BHKD.dtype) @ v_BHKD).masked_fill(empty, 0.0)
