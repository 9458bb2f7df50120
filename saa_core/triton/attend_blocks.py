"""Device code: attention over the key blocks of two lists. Oracle: kernels/reference.py."""

import triton
import triton.language as tl


@triton.jit
def add_tile(
    query,
    out,
    best,
    total,
    k,
    v,
    start,
    k_n,
    v_n,
    K,
    scale,
    first,
    last,
    WHOLE: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of keys added to the running softmax (in powers of two) of a tile of queries."""
    n = start + tl.arange(0, BN)
    d = tl.arange(0, BD)
    there = n < K
    inside = (d < D)[None, :]
    mask = inside
    if not WHOLE:
        mask = inside & there[:, None]
    key = tl.load(k + n.to(tl.int64)[:, None] * k_n + d[None, :], mask=mask, other=0.0)
    if UPCAST:  # the interpreter multiplies bfloat16 wrongly
        key = key.to(tl.float32)
    score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
    if not WHOLE:
        seen = (n[None, :] >= first[:, None]) & (n[None, :] <= last[:, None]) & there[None, :]
        score = tl.where(seen, score, float("-inf"))
    higher = tl.maximum(best, tl.max(score, 1))
    peak = tl.where(higher > float("-inf"), higher, 0.0)
    weight = tl.exp2(score - peak[:, None])
    before = tl.exp2(best - peak)
    total = total * before + tl.sum(weight, 1)
    value = tl.load(v + n.to(tl.int64)[:, None] * v_n + d[None, :], mask=mask, other=0.0)
    if UPCAST:
        value = value.to(tl.float32)
    out = out * before[:, None]
    out += tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
    return out, higher, total


@triton.jit
def attend_blocks(
    q,  # [B, H, Q, D]
    k,  # [B, G, K, D]
    v,
    out,  # [B, H, Q, D]
    bounds,  # [B or 1, 2, Q] int32
    full_count,  # [B, H, M] int32
    full_index,  # [B, H, M, S] int32
    part_count,
    part_index,
    live,
    q_b,
    q_h,
    q_n,
    k_b,
    k_g,
    k_n,
    v_b,
    v_g,
    v_n,
    o_b,
    o_h,
    o_n,
    bounds_b,
    H,
    G,
    Q,
    K,
    M,
    S,
    scale,  # times the logarithm of e to base two
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    LIVE: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per head and BM queries of a query block; long rows first."""
    if LIVE:
        Q = tl.load(live)
        K = tl.load(live + 1)
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    if tile * BM >= Q:
        return
    bh = tl.program_id(1)
    b = (bh // H).to(tl.int64)
    h = bh % H
    g = (h // (H // G)).to(tl.int64)
    n = tile * BM + tl.arange(0, BM)
    d = tl.arange(0, BD)
    inside = (n < Q)[:, None] & (d < D)[None, :]
    at = q + b * q_b + h.to(tl.int64) * q_h + n.to(tl.int64)[:, None] * q_n + d[None, :]
    query = tl.load(at, mask=inside, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    if MASKED:
        first = tl.load(bounds + b * bounds_b + n, mask=n < Q, other=0)
        last = tl.load(bounds + b * bounds_b + Q + n, mask=n < Q, other=-1)
    else:
        first = tl.zeros_like(n)
        last = tl.zeros_like(n) + K - 1
        if CAUSAL:
            last = n + (K - Q)
    keys = k + b * k_b + g * k_g
    values = v + b * v_b + g * v_g
    mixed = tl.zeros([BM, BD], tl.float32)
    best = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    row = bh.to(tl.int64) * M + tile * BM // BQ
    PARTS: tl.constexpr = BK // BN
    for i in range(tl.load(full_count + row) * PARTS):
        start = tl.load(full_index + row * S + i // PARTS) * BK + i % PARTS * BN
        mixed, best, total = add_tile(
            query, mixed, best, total, keys, values, start, k_n, v_n, K, scale, first, last,
            True, D, BD, BN, UPCAST, PRECISION,
        )  # fmt: skip
    for i in range(tl.load(part_count + row) * PARTS):
        start = tl.load(part_index + row * S + i // PARTS) * BK + i % PARTS * BN
        mixed, best, total = add_tile(
            query, mixed, best, total, keys, values, start, k_n, v_n, K, scale, first, last,
            False, D, BD, BN, UPCAST, PRECISION,
        )  # fmt: skip
    mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
    to = out + b * o_b + h.to(tl.int64) * o_h + n.to(tl.int64)[:, None] * o_n + d[None, :]
    tl.store(to, mixed.to(out.dtype.element_ty), mask=inside)
