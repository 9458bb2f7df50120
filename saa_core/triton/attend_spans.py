"""Device code: attention of texts that stand behind each other, each to itself, nothing padded."""

import triton
import triton.language as tl

from saa_core.triton.attend_blocks import add_tile


@triton.jit
def attend_spans(
    q,  # [H, A, D]
    k,
    v,
    out,  # [H, A, D]
    first_key,  # [A] int32: first and last token of the text that a token belongs to
    last_key,
    q_h,
    q_n,
    k_h,
    k_n,
    v_h,
    v_n,
    o_h,
    o_n,
    A,
    scale,  # times the logarithm of e to base two
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per head and BM tokens: from the first text's first key to the last one's last."""
    n = tl.program_id(0) * BM + tl.arange(0, BM)
    h = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, BD)
    inside = (n < A)[:, None] & (d < D)[None, :]
    at = q + h * q_h + n.to(tl.int64)[:, None] * q_n + d[None, :]
    query = tl.load(at, mask=inside, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    first = tl.load(first_key + n, mask=n < A, other=A)
    last = tl.load(last_key + n, mask=n < A, other=-1)
    begin = tl.min(first, 0)
    end = tl.max(last, 0) + 1
    mixed = tl.zeros([BM, BD], tl.float32)
    best = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    for start in range(begin, end, BN):
        mixed, best, total = add_tile(
            query, mixed, best, total, k + h * k_h, v + h * v_h, start, k_n, v_n, A, scale,
            first, last, False, D, BD, BN, UPCAST, PRECISION,
        )  # fmt: skip
    mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
    to = out + h * o_h + n.to(tl.int64)[:, None] * o_n + d[None, :]
    tl.store(to, mixed.to(out.dtype.element_ty), mask=inside)
