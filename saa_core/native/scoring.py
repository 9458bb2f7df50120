"""The gate's scores and the top-p rule in C++ (scoring.cpp), for a CPU and without gradients.

They compute what gates.PairGate and rules.mass compute with PyTorch, about ten times faster where
single pairs are decided: one pass over memory instead of one per operation, and a threshold found
by halving instead of by sorting.
"""

import ctypes

import torch
from torch import Tensor

from saa_core.native import call, rows, structure

_Scoring = structure(
    "Scoring",
    (("q", "k", "query_weight", "key_weight", "distance", "first", "valid"), ctypes.c_void_p),
    (("bucket", "log_visible", "first_block", "out"), ctypes.c_void_p),
    (("q_step", "k_step"), ctypes.c_int64 * 3),
    (
        ("B", "H", "G", "Q", "K", "D", "P", "S", "R", "size", "bk", "buckets", "share", "step"),
        ctypes.c_int64,
    ),
    (("scale",), ctypes.c_float),
)
_TopP = structure(
    "TopP",
    (("score", "forced", "count", "keep", "threshold"), ctypes.c_void_p),
    (("B", "H", "M", "S", "forced_step", "count_step"), ctypes.c_int64),
    (("target",), ctypes.c_float),
)


def scores(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    valid: Tensor | None,
    bucket: Tensor,
    log_visible: Tensor,
    first_block: Tensor | None,
    block: tuple[int, int],
    share: int,
) -> Tensor:
    """Predicted mass per block, [B, H, P / share, S].

    Args:
        weights: ``query`` [H, 2 D, R], ``key`` [G, 3 D, R], ``distance`` [H, buckets], ``first`` [H].
        valid: keys that any query may see, bool [B or 1, K]; None is all.
        bucket: int32 [P, S].
        log_visible: [B or 1, 1, P, S].
        first_block: [B or 1, 1, 1, S]; None is block 0.
        block, share: of the grid.
    """
    B, H, Q, D = q_BHQD.shape
    G, K = k_BGKD.shape[1:3]
    P, S = bucket.shape
    if valid is not None:
        valid = valid.expand(B, -1)
    if first_block is not None:
        first_block = first_block.expand(B, -1, -1, -1)
    inputs = [rows(q_BHQD), rows(k_BGKD)]
    tables = [x.detach().float().contiguous() for x in weights]
    grid = [
        None if x is None else x.contiguous() for x in (valid, bucket, log_visible, first_block)
    ]
    out = torch.empty(B, H, P // share, S)
    problem = _Scoring(
        *(None if x is None else x.data_ptr() for x in (*inputs, *tables, *grid, out)),
        *((ctypes.c_int64 * 3)(*x.stride()[:3]) for x in inputs),
        *(B, H, G, Q, K, D, P, S, tables[0].shape[2], block[0] // share, block[1]),
        *(tables[2].shape[1], share, P * S if len(log_visible) > 1 else 0),
        D**-0.5,
    )
    if out.numel():
        call("saa_scores", problem)
    return out


def top_p(score: Tensor, forced: Tensor, count: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """keep [B, H, M, S] and threshold [B, H, M]; arguments and results of rules.mass."""
    shape = B, H, M, S = tuple(score.shape)
    if forced.shape[1] > 1 or count.shape[1] > 1:  # a person decides per head: heads become items
        forced, count = (x.expand(B, H, -1, -1).reshape(B * H, 1, M, S) for x in (forced, count))
        B, H = B * H, 1
    score, forced, count = (
        score.detach().float().contiguous(),
        forced.contiguous(),
        count.contiguous(),
    )
    keep = torch.empty(B, H, M, S, dtype=torch.bool)
    threshold = torch.empty(B, H, M)
    problem = _TopP(
        *(x.data_ptr() for x in (score, forced, count, keep, threshold)),
        *(B, H, M, S),
        *(M * S if len(x) > 1 else 0 for x in (forced, count)),
        target,
    )
    if keep.numel():
        call("saa_top_p", problem)
    return keep.view(shape), threshold.view(shape[:-1])
