"""Attention of texts that stand behind each other without padding, in one launch and with no host in it.

Shapes: A tokens of all texts, H heads, D head size.
"""

import torch
from torch import Tensor

from saa_core.triton import interpreting, padded
from saa_core.triton.attention import LOG2_E

TILE = (64, 32)
"""(queries, keys) that one program multiplies at once: texts are short."""


def attend_texts(
    q_HAD: Tensor, k_HAD: Tensor, v_HAD: Tensor, first: Tensor, last: Tensor
) -> Tensor:
    """Softmax attention of each text to itself, [H, A, D].

    Args:
        first, last: first and last token of the text that each token belongs to, int32 [A].
    """
    from saa_core.triton.attend_spans import attend_spans

    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_HAD, k_HAD, v_HAD))
    H, A, D = q.shape
    out = torch.empty(A, H, D, dtype=q.dtype, device=q.device).transpose(0, 1)
    if not A:
        return out
    attend_spans[(-(-A // TILE[0]), H)](
        *(q, k, v, out, first, last),
        *(step for x in (q, k, v, out) for step in x.stride()[:2]),
        *(A, D**-0.5 * LOG2_E),
        D=D,
        BD=padded(D),
        BM=TILE[0],
        BN=TILE[1],
        UPCAST=interpreting(),
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=4,
        num_stages=2,
    )
    return out
