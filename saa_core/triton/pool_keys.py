"""Device code: what a gate sees of a key block, projected. Oracle: gates/pair.py (``pool_keys``)."""

import triton
import triton.language as tl


@triton.jit
def pool_keys(
    k,  # [B, G, K, D]
    weight,  # [G, 3 D, R] float32
    valid,  # [B or 1, K] uint8: keys that anybody may see
    out,  # [B, G, S, R] float32
    live,  # [2] int32: queries and keys of the text
    k_b,
    k_g,
    k_n,
    valid_b,
    G,
    K,
    S,
    MASKED: tl.constexpr,
    LIVE: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    R: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per TILE key blocks and key head: reads its keys once."""
    if LIVE:
        K = tl.load(live + 1)
    item = tl.program_id(1) // G
    head = tl.program_id(1) % G
    block = tl.program_id(0) * TILE + tl.arange(0, TILE)
    d = tl.arange(0, BD)
    base = k + item.to(tl.int64) * k_b + head.to(tl.int64) * k_g
    total = tl.zeros([TILE, BD], tl.float32)
    most = tl.full([TILE, BD], float("-inf"), tl.float32)
    least = tl.full([TILE, BD], float("inf"), tl.float32)
    count = tl.zeros([TILE], tl.int32)
    for start in range(0, BK, CHUNK):
        row = block[:, None] * BK + start + tl.arange(0, CHUNK)[None, :]
        there = row < K
        if MASKED:
            there = there & (tl.load(valid + item * valid_b + row, mask=there, other=0) != 0)
        at = base + row.to(tl.int64)[:, :, None] * k_n + d[None, None, :]
        x = tl.load(at, mask=there[:, :, None] & (d < D)[None, None, :], other=0.0).to(tl.float32)
        total += tl.sum(x, 1)
        most = tl.maximum(most, tl.max(tl.where(there[:, :, None], x, float("-inf")), 1))
        least = tl.minimum(least, tl.min(tl.where(there[:, :, None], x, float("inf")), 1))
        count += tl.sum(there.to(tl.int32), 1)
    some = (count > 0)[:, None]
    mean = total / tl.maximum(count, 1)[:, None].to(tl.float32)
    most = tl.where(some, most, 0.0)
    least = tl.where(some, least, 0.0)
    r = tl.arange(0, BR)
    inside = (d < D)[:, None] & (r < R)[None, :]
    table = weight + head * 3 * D * R + d[:, None] * R + r[None, :]
    found = tl.dot(mean, tl.load(table, mask=inside, other=0.0), input_precision=PRECISION)
    w = tl.load(table + D * R, mask=inside, other=0.0)
    found += tl.dot(most, w, input_precision=PRECISION)
    w = tl.load(table + 2 * D * R, mask=inside, other=0.0)
    found += tl.dot(least, w, input_precision=PRECISION)
    to = out + (tl.program_id(1).to(tl.int64) * S + block[:, None]) * R + r[None, :]
    tl.store(to, found, mask=(block < S)[:, None] & (r < R)[None, :])
