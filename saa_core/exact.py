"""Exact attention of some queries: what a gate is trained on, judged by and guarded with.

Shapes: B batch, H query heads, G key/value heads, R queries, K keys, S key blocks, D head size.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def attention_weights(q_BHRD: Tensor, k_BGKD: Tensor, pairs: Tensor, scale: float) -> Tensor:
    """Softmax over the keys that each query sees, float32 [B, H, R, K].

    Args:
        pairs: keys that each query sees, bool, broadcasts to [B, 1, R, K]. A query that sees none
            gives none any weight.
    """
    B, H, R, D = q_BHRD.shape
    G, K = k_BGKD.shape[1:3]
    grouped = (q_BHRD.float() * scale).reshape(B, G, H // G * R, D)
    scores = (grouped @ k_BGKD.float().transpose(-1, -2)).view(B, H, R, K)
    weights = scores.masked_fill_(~pairs, -torch.inf).softmax(-1)
    blind = ~pairs.any(-1, keepdim=True)
    return weights.masked_fill_(blind, 0.0) if bool(blind.any()) else weights


def per_block(weights_BHRK: Tensor, wide: int) -> Tensor:
    """Weights summed over blocks of ``wide`` keys, [B, H, R, S]."""
    missing = -weights_BHRK.shape[-1] % wide
    whole = pad(weights_BHRK, (0, missing)) if missing else weights_BHRK
    mass: Tensor = whole.unflatten(-1, (-1, wide)).sum(-1)
    return mass
