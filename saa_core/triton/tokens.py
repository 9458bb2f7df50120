"""The token gate in one launch: scores, and which tokens stay.

Shapes: T tokens, E hidden size, W width of the predictor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saa_core.triton import padded

TILE = 16
"""Tokens of one program."""
CHUNK = 64
"""Numbers of each of their states that it holds at once."""


def token_scores(
    x_TE: Tensor, weights: Sequence[Tensor], shift: Tensor, special_T: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Scores, float32 [T], and whether each token stays, bool [T].

    Args:
        weights: of the gate: the norm's weight and bias [E], ``down`` [W, E] and its bias [W], ``up``
            [1, W] and its bias [1].
        shift: of the share, one number.
        special_T: tokens that are never dropped, bool [T].
        epsilon: of the norm.
    """
    from saa_core.triton.score_tokens import score_tokens

    x = x_TE if x_TE.stride(-1) == 1 else x_TE.contiguous()
    *tables, up_bias = (w.detach().float().contiguous() for w in weights)
    T, E = x.shape
    width = len(tables[3])
    score = torch.empty(T, device=x.device)
    stays = torch.empty(T, dtype=torch.uint8, device=x.device)
    if T:
        score_tokens[(-(-T // TILE),)](
            *(x, *tables, up_bias + shift.detach().float(), special_T.view(torch.uint8)),
            *(score, stays, x.stride(0), T, epsilon),
            E=E,
            W=width,
            BW=padded(width),
            BT=TILE,
            CHUNK=CHUNK,
            PRECISION="tf32x3",
            num_warps=4,
        )
    return score, stays.view(torch.bool)
