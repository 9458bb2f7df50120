"""The slow, obvious version: every pair is scored, dropped ones are masked. The oracle of the tests.

It saves nothing. It has no limits on shapes, devices or block sizes, it is differentiable, and it is the
one kernel that computes soft caps, biases, attention sinks and dropout.
"""

import torch
from torch import Tensor
from torch.nn.functional import dropout

from saa_core.exact import PLAIN, Softmax
from saa_core.pairs import Allowed, Decision


def reference(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    decision: Decision,
    allowed: Allowed,
    scale: float,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """Softmax attention over the kept pairs; [B, H, Q, D]."""
    return mix(kept_weights(q_BHQD, k_BGKD, decision, allowed, scale, softmax), v_BGKD)


def mix(weights_BHQK: Tensor, v_BGKD: Tensor) -> Tensor:
    """Values weighted and summed, [B, H, Q, D]."""
    v_BHKD = v_BGKD.repeat_interleave(weights_BHQK.shape[1] // v_BGKD.shape[1], 1)
    return weights_BHQK.to(v_BHKD.dtype) @ v_BHKD


def kept_weights(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    decision: Decision,
    allowed: Allowed,
    scale: float,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """The weights of the kept pairs, float32 [B, H, Q, K]; a query without any has zeros."""
    k_BHKD = k_BGKD.repeat_interleave(q_BHQD.shape[1] // k_BGKD.shape[1], 1)
    scores_BHQK = softmax.bent((q_BHQD @ k_BHKD.transpose(-1, -2)).float() * scale)
    keep_BHQK = decision.pair_keep(allowed)
    # A query without any kept key (padding) attends to everything, then gets zeros: no NaN.
    empty = ~keep_BHQK.any(-1, keepdim=True)
    scores_BHQK = scores_BHQK.masked_fill(~(keep_BHQK | empty), -torch.inf)
    if softmax.sinks is not None:
        sinks_BHQ1 = softmax.sinks.float().view(1, -1, 1, 1).expand(*scores_BHQK.shape[:3], 1)
        scores_BHQK = torch.cat([scores_BHQK, sinks_BHQ1], -1)
    weights = torch.softmax(scores_BHQK, -1)[..., : k_BHKD.shape[2]]
    if softmax.dropout > 0:
        weights = dropout(weights, softmax.dropout)
    return weights.masked_fill(empty, 0.0)
