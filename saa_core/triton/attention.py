"""Attention over lists of key blocks, by our own kernel.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, D head size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core.triton import interpreting, padded
from saa_core.triton.decide import Seen
from saa_core.triton.lists import Lists

LOG2_E = math.log2(math.e)
LARGEST_TILE = (128, 64)
"""(queries, keys) that one program multiplies at once, at most."""
LARGEST_TILE_FLOAT32 = (64, 32)


@dataclass(frozen=True)
class Tuning:
    """How a kernel is built: warps per program, and stages of loads that run ahead."""

    warps: int = 4
    stages: int = 2


def built_in(head_size: int, block: tuple[int, int]) -> Tuning:
    """What is used where nothing was measured: small enough for the shared memory of every card."""
    large = padded(head_size) * min(block[0], LARGEST_TILE[0]) > 64 * 64
    return Tuning(warps=8 if large else 4, stages=2)


def tile_for(block: tuple[int, int], dtype: torch.dtype) -> tuple[int, int]:
    """(queries, keys) that one program multiplies at once: the block, or parts of it."""
    most = LARGEST_TILE_FLOAT32 if dtype == torch.float32 else LARGEST_TILE
    return min(block[0], most[0]), min(block[1], most[1])


def attend_lists(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    lists: Lists,
    scale: float,
    *,
    causal: bool,
    seen: Seen | None = None,
    live: Tensor | None = None,
    tuning: Tuning | None = None,
) -> Tensor:
    """Softmax attention over the listed blocks, [B, H, Q, D]; a query that sees nothing gets zeros.

    Args:
        causal, seen, live: see :class:`saa_core.triton.decide.Task`.
        tuning: by default what is built in.
    """
    from saa_core.triton.attend_blocks import attend_blocks

    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BHQD, k_BGKD, v_BGKD))
    B, H, Q, D = q.shape
    bq, bk = lists.block
    M, S = lists.full_index.shape[2:]
    tile = tile_for(lists.block, q.dtype)
    tuning = tuning or built_in(D, lists.block)
    # Laid out as Transformers wants it next: all heads of one position together.
    out = torch.empty(B, Q, H, D, dtype=q.dtype, device=q.device).transpose(1, 2)
    bounds = lists.full_count if seen is None else seen.bounds
    attend_blocks[(-(-Q // tile[0]), B * H)](
        *(q, k, v, out, bounds, *lists.tensors, lists.full_count if live is None else live),
        *(step for x in (q, k, v, out) for step in x.stride()[:3]),
        *(bounds.stride(0) if seen is not None and len(bounds) > 1 else 0, H, k.shape[1], Q),
        *(k.shape[2], M, S, scale * LOG2_E),
        CAUSAL=causal,
        MASKED=seen is not None,
        LIVE=live is not None,
        D=D,
        BD=padded(D),
        BQ=bq,
        BK=bk,
        BM=tile[0],
        BN=tile[1],
        UPCAST=interpreting(),
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=tuning.warps,
        num_stages=tuning.stages,
    )
    return out
