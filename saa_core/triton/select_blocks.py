"""Device code: scores, softmax over key blocks, top-p, forced blocks, and the lists of what is kept.

Oracles: gates/pair.py (scores), rules/forced.py, rules/mass.py and native/scoring.cpp (``top_p``).
"""

import triton
import triton.language as tl

STEPS = tl.constexpr(31)
"""Halvings until one of the numbers from 0 to the largest score is left."""
EXCLUDED = tl.constexpr(7)
LAST_BUCKET = tl.constexpr(27)
ROOT_OF_TWO = tl.constexpr(0x3504F4)
"""Mantissa from which a number is over the square root of two, times a power of two."""


@triton.jit
def bisect(free, wanted):
    """The highest bar that still lets ``wanted`` through, [rows]; infinite where nothing is wanted.

    Scores are not negative, so their bits are ordered as they are: the range of bits is halved until
    one is left. ``free`` [rows, columns] holds zeros where a block is no candidate.
    """
    high = tl.max(free, 1).to(tl.int32, bitcast=True)
    low = tl.zeros_like(high)
    for _ in range(STEPS):
        middle = low + (high - low + 1) // 2
        bar = middle.to(tl.float32, bitcast=True)
        reached = tl.sum(tl.where(free >= bar[:, None], free, 0.0), 1)
        enough = reached >= wanted
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, tl.maximum(middle - 1, low))
    return tl.where(wanted > 0.0, low.to(tl.float32, bitcast=True), float("inf"))


@triton.jit
def write_lists(keep, full, row, live, s, S, full_count, full_index, part_count, part_index):
    """Kept blocks of each row in ascending order: those that are allowed as a whole, and the others."""
    whole = (keep & full).to(tl.int32)
    part = (keep & (full == 0)).to(tl.int32)
    place = row.to(tl.int64)[:, None] * S
    number = tl.broadcast_to(s[None, :], keep.shape).to(tl.int32)
    tl.store(full_index + place + tl.cumsum(whole, 1) - 1, number, mask=(whole > 0) & live[:, None])
    tl.store(part_index + place + tl.cumsum(part, 1) - 1, number, mask=(part > 0) & live[:, None])
    tl.store(full_count + row, tl.sum(whole, 1), mask=live)
    tl.store(part_count + row, tl.sum(part, 1), mask=live)


@triton.jit
def scored(
    query,
    keys,
    distance,
    bias,
    first_block,
    at,
    first,
    last,
    start,
    K,
    S,
    R: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BS: tl.constexpr,
    DIRECTED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores of BS key blocks before the softmax, [rows, BS]; minus infinity where nothing is visible.

    ``at``, ``first``, ``last`` [rows]: position of the middle query, first and last key that it sees.
    """
    s = start + tl.arange(0, BS)
    r = tl.arange(0, BR)
    inside = (r < R)[:, None] & (s < S)[None, :]
    key = tl.load(keys + s[None, :] * R + r[:, None], mask=inside, other=0.0)
    x = tl.dot(query, key, input_precision=PRECISION)
    end = tl.minimum(s * BK + BK, K)
    seen = tl.minimum(end[None, :], last[:, None] + 1) - tl.maximum(s[None, :] * BK, first[:, None])
    # Twice the distance from the middle of the block is whole; so is the logarithm's whole part exact.
    twice = 2 * s[None, :] * BK + (BK - 1) - 2 * at[:, None]
    bits = (1.0 + tl.abs(twice).to(tl.float32) * 0.5).to(tl.int32, bitcast=True)
    over = ((bits & 0x7FFFFF) >= ROOT_OF_TWO).to(tl.int32)
    bucket = tl.minimum(2 * ((bits >> 23) - 127) + over, LAST_BUCKET)
    if DIRECTED:
        bucket += (LAST_BUCKET + 1) * (twice > 0).to(tl.int32)
    x += tl.load(distance + bucket)
    x += tl.where(s == first_block, bias, 0.0)[None, :]
    x += tl.log(tl.maximum(seen, 1).to(tl.float32))
    return tl.where((seen > 0) & (s < S)[None, :], x, float("-inf"))


@triton.jit
def select_blocks(
    q,  # [B, H, Q, D]
    keys,  # [B, G, S, R] float32, of pool_keys
    weight,  # [H, 2 D, R] float32
    distance,  # [H, buckets] float32
    bias,  # [H] float32: of the first visible block
    bounds,  # [B or 1, 2, Q] int32: first and last key that each query sees
    item,  # [B or 1, 3] int32: first key, last query, first block
    codes,  # [B or 1, 1 or H, M, S] uint8: forced and excluded blocks, if a person says so
    mass,  # [B, H, M, S] float32, out: predicted mass of what these blocks may see
    keep_out,  # [B, H, M, S] uint8, out
    threshold,  # [B, H, M] float32, out
    full_count,  # [B, H, M] int32, out
    full_index,  # [B, H, M, S] int32, out
    part_count,
    part_index,
    live,  # [2] int32: queries and keys of the text
    q_b,
    q_h,
    q_n,
    bounds_b,
    item_b,
    codes_b,
    codes_h,
    H,
    G,
    Q,
    K,
    M,
    S,
    buckets,
    target,
    scale,
    sink,
    local,
    tail,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    DIRECTED: tl.constexpr,
    CODES: tl.constexpr,
    STORE: tl.constexpr,
    LISTS: tl.constexpr,
    LIVE: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    R: tl.constexpr,
    BR: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    SHARE: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BS: tl.constexpr,
    WIDE: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per head and ROWS / SHARE query blocks, the last ones first: they see most."""
    if LIVE:
        Q = tl.load(live)
        K = tl.load(live + 1)
    BLOCKS: tl.constexpr = ROWS // SHARE
    group = tl.num_programs(0) - 1 - tl.program_id(0)
    if group * BLOCKS * BQ >= Q:
        return
    bh = tl.program_id(1)
    b = bh // H
    h = bh % H
    g = h // (H // G)
    offset = K - Q
    first_key = 0
    last_query = K - 1
    first_block = 0
    if MASKED:
        first_key = tl.load(item + b * item_b)
        last_query = tl.load(item + b * item_b + 1)
        first_block = tl.load(item + b * item_b + 2)

    # Mean and middle row of each group of neighbouring queries, projected.
    pooled = group * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BD)
    r = tl.arange(0, BR)
    base = q + b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    total = tl.zeros([ROWS, BD], tl.float32)
    for i in range(SIZE):
        member = tl.minimum(pooled * SIZE + i, Q - 1).to(tl.int64)  # beyond the end: the last query
        total += tl.load(
            base + member[:, None] * q_n + d[None, :], mask=(d < D)[None, :], other=0.0
        ).to(tl.float32)
    position = tl.minimum(pooled * SIZE + SIZE // 2, Q - 1)
    at = base + position.to(tl.int64)[:, None] * q_n + d[None, :]
    middle = tl.load(at, mask=(d < D)[None, :], other=0.0).to(tl.float32)
    inside = (d < D)[:, None] & (r < R)[None, :]
    table = weight + h * 2 * D * R + d[:, None] * R + r[None, :]
    w = tl.load(table, mask=inside, other=0.0)
    query = tl.dot(total * (1.0 / SIZE), w, input_precision=PRECISION)
    w = tl.load(table + D * R, mask=inside, other=0.0)
    query += tl.dot(middle, w, input_precision=PRECISION)
    query = query * scale

    # The keys that middle queries see, and those that any query of these blocks sees.
    if MASKED:
        own = bounds + b * bounds_b
        first = tl.load(own + position)
        last = tl.load(own + Q + position)
        n = group * BLOCKS * BQ + tl.arange(0, BLOCKS * BQ)
        every_first = tl.load(own + n, mask=n < Q, other=0)
        every_last = tl.load(own + Q + n, mask=n < Q, other=-1)
        sees = every_last >= every_first
        lowest = tl.min(tl.where(sees, every_first, K), 0)
        highest = tl.max(tl.where(sees, every_last, -1), 0)
    else:
        first = tl.zeros_like(position)
        last = tl.zeros_like(position) + K - 1
        lowest = 0
        highest = K - 1
        if CAUSAL:
            last = position + offset
            highest = tl.minimum((group + 1) * BLOCKS * BQ, Q) - 1 + offset
    begin = lowest // BK // BS * BS
    end = (highest + BK) // BK
    head_bias = tl.load(bias + h)
    own_keys = keys + (b * G + g).to(tl.int64) * S * R
    own_distance = distance + h * buckets
    where = position + offset

    best = tl.full([ROWS], float("-inf"), tl.float32)
    total_weight = tl.zeros([ROWS], tl.float32)
    for start in range(begin, end, BS):
        x = scored(
            query, own_keys, own_distance, head_bias, first_block, where, first, last, start, K, S,
            R, BR, BK, BS, DIRECTED, PRECISION,
        )  # fmt: skip
        higher = tl.maximum(best, tl.max(x, 1))
        peak = tl.where(higher > float("-inf"), higher, 0.0)
        total_weight = total_weight * tl.exp(best - peak) + tl.sum(tl.exp(x - peak[:, None]), 1)
        best = higher
    # A query that sees nothing (padding) does not count in the mean of its block.
    peak = tl.where(best > float("-inf"), best, 0.0)
    sees_any = tl.reshape((total_weight > 0.0).to(tl.int32), [BLOCKS, SHARE])
    among = tl.maximum(tl.sum(sees_any, 1), 1).to(tl.float32)
    among = tl.reshape(tl.broadcast_to(among[:, None], [BLOCKS, SHARE]), [ROWS])
    factor = 1.0 / (tl.where(total_weight > 0.0, total_weight, 1.0) * among)
    blocks = group * BLOCKS + tl.arange(0, BLOCKS)
    for start in range(begin, end, BS):
        x = scored(
            query, own_keys, own_distance, head_bias, first_block, where, first, last, start, K, S,
            R, BR, BK, BS, DIRECTED, PRECISION,
        )  # fmt: skip
        share = tl.exp(x - peak[:, None]) * factor[:, None]
        mean = tl.sum(tl.reshape(share, [BLOCKS, SHARE, BS]), 1)
        s = start + tl.arange(0, BS)
        to = mass + (bh.to(tl.int64) * M + blocks[:, None]) * S + s[None, :]
        tl.store(to, mean, mask=(blocks * BQ < Q)[:, None] & (s < end)[None, :])
    tl.debug_barrier()  # the masses were written by other threads of this program

    s = tl.arange(0, WIDE)
    from_key = s * BK
    for j in range(0, BLOCKS, STEP):
        m = group * BLOCKS + j + tl.arange(0, STEP)
        real = m * BQ < Q
        row = bh * M + m
        cell = row.to(tl.int64)[:, None] * S + s[None, :]
        reach = real[:, None] & (s >= begin)[None, :] & (s < end)[None, :]
        score = tl.load(mass + cell, mask=reach, other=0.0)
        near = tl.zeros([STEP, WIDE], tl.int1)
        if MASKED:
            allowed = tl.zeros([STEP, WIDE], tl.int1)
            highest_first = tl.zeros([STEP], tl.int32)
            lowest_last = tl.zeros([STEP], tl.int32) + K
            for i in range(BQ):
                mine = m * BQ + i
                f = tl.load(own + mine, mask=mine < Q, other=0)
                last_seen = tl.load(own + Q + mine, mask=mine < Q, other=-1)
                some = last_seen >= f
                hit = (from_key[None, :] <= last_seen[:, None]) & (
                    from_key[None, :] + BK > f[:, None]
                )
                allowed = allowed | (hit & some[:, None])
                p = mine + offset
                nearest = tl.minimum(tl.maximum(p, f), last_seen) // BK
                lost = some & ((p < f) | (p > last_seen))
                near = near | (lost[:, None] & (s[None, :] == nearest[:, None]))
                highest_first = tl.maximum(highest_first, f)
                lowest_last = tl.minimum(lowest_last, last_seen)
        else:
            highest_first = tl.zeros([STEP], tl.int32)
            top = tl.zeros([STEP], tl.int32) + K - 1
            lowest_last = top
            if CAUSAL:
                top = tl.minimum(m * BQ + BQ, Q) - 1 + offset
                lowest_last = m * BQ + offset
            allowed = from_key[None, :] <= top[:, None]
        allowed = allowed & real[:, None]
        whole = (from_key[None, :] >= highest_first[:, None]) & (
            from_key[None, :] + BK - 1 <= lowest_last[:, None]
        )
        full = allowed & whole & (m * BQ + BQ <= Q)[:, None]
        if CODES:
            at = codes + b * codes_b + h.to(tl.int64) * codes_h + m.to(tl.int64)[:, None] * S
            code = tl.load(at + s[None, :], mask=real[:, None] & (s < S)[None, :], other=0)
            forced = (code > 0) & (code != EXCLUDED)
            allowed = allowed & (code != EXCLUDED)
            score = tl.where(code == EXCLUDED, 0.0, score)
        else:
            q_from = m * BQ + offset
            behind = q_from[:, None] - (from_key + BK - 1)[None, :]
            ahead = from_key[None, :] - (q_from + BQ - 1)[:, None]
            gap = tl.maximum(tl.maximum(behind, ahead), 0)
            at_start = (from_key < first_key + sink) & (from_key + BK > first_key)
            at_end = (q_from + BQ > last_query + 1 - tail) & (tail > 0)
            forced = near | (gap < local) | at_start[None, :] | at_end[:, None]
        forced = forced & allowed
        free = tl.where(forced, 0.0, score)
        whole_mass = tl.sum(score, 1)
        wanted = target * whole_mass - (whole_mass - tl.sum(free, 1))
        bar = bisect(free, wanted)
        bar = tl.where(target >= 1.0, 0.0, bar)
        keep = allowed & (forced | (free >= bar[:, None]))
        if STORE:
            tl.store(keep_out + cell, keep.to(tl.uint8), mask=real[:, None] & (s < S)[None, :])
            tl.store(threshold + row, bar, mask=real)
        if LISTS:
            write_lists(keep, full, row, real, s, S, full_count, full_index, part_count, part_index)
