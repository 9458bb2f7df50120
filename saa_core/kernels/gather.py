"""Portable sparse attention: the kept key blocks of each query block are gathered, then SDPA.

Runs wherever PyTorch runs, without a compiler, and is differentiable. Heads of one query block
are padded to the largest number of kept blocks among them.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from saa_core.pairs import Allowed, Decision


def gather(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    decision: Decision,
    allowed: Allowed,
    scale: float,
) -> Tensor:
    """Softmax attention over the kept blocks; [B, H, Q, D]."""
    bq, bk = decision.block
    B, H, Q, D = q_BHQD.shape
    G, K, V = *k_BGKD.shape[1:3], v_BGKD.shape[3]
    M, S = decision.keep.shape[-2:]
    fill = (0, 0, 0, S * bk - K)
    k_blocks = pad(k_BGKD, fill).view(B, G, S, bk, D)
    v_blocks = pad(v_BGKD, fill).view(B, G, S, bk, V)
    group = torch.arange(H, device=q_BHQD.device) // (H // G)
    batch = torch.arange(B, device=q_BHQD.device)[:, None, None]
    counts = decision.keep.sum(-1)  # B H M
    order = decision.keep.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    widest = counts.amax((0, 1)).tolist()
    within = torch.arange(bk, device=q_BHQD.device)
    out = []
    for m in range(M):
        rows = slice(m * bq, min((m + 1) * bq, Q))
        C = max(int(widest[m]), 1)
        index = order[:, :, m, :C]  # B H C
        k = k_blocks[batch, group[None, :, None], index].reshape(B, H, C * bk, D)
        v = v_blocks[batch, group[None, :, None], index].reshape(B, H, C * bk, V)
        taken = torch.arange(C, device=index.device) < counts[:, :, m, None]
        position = (index[..., None] * bk + within).reshape(B, H, 1, C * bk)
        keep = taken.repeat_interleave(bk, -1)[:, :, None] & _allowed(allowed, rows, position)
        # A query without any kept key (padding) attends to everything, then gets zeros: no NaN.
        empty = ~keep.any(-1, keepdim=True)
        mixed = scaled_dot_product_attention(
            q_BHQD[:, :, rows], k, v, attn_mask=keep | empty, scale=scale
        )
        out.append(mixed.masked_fill(empty, 0.0))
    return torch.cat(out, 2)


def _allowed(allowed: Allowed, rows: slice, position: Tensor) -> Tensor:
    """Which of the gathered keys the rows may see, bool [B, H, rows, C * bk]."""
    inside = position < allowed.keys
    if allowed.mask is not None:
        seen = allowed.mask[:, :, rows].expand(*position.shape[:2], -1, -1)
        index = position.clamp(max=allowed.keys - 1).expand(-1, -1, seen.shape[2], -1)
        return seen.gather(-1, index) & inside
    if not allowed.causal:
        return inside
    q = torch.arange(rows.start, rows.stop, device=position.device) + allowed.keys - allowed.queries
    return (position <= q[:, None]) & inside
