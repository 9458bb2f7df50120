"""Device code: the token gate, from hidden states to what stays. Oracle: gates/token.py."""

import triton
import triton.language as tl

ROOT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def score_tokens(
    x,  # [T, E]
    norm_weight,  # [E] float32
    norm_bias,
    down,  # [W, E] float32
    down_bias,  # [W]
    up,  # [W]
    offset,  # [1]: the bias of the last layer and the shift of the share
    special,  # [T] uint8: tokens that are never dropped
    score,  # [T] float32, out
    stays,  # [T] uint8, out
    x_n,
    T,
    epsilon,
    E: tl.constexpr,
    W: tl.constexpr,
    BW: tl.constexpr,
    BT: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per BT tokens: norm, two layers, shift, comparison. A row is read three times,
    the last two from the cache."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    w = tl.arange(0, BW)
    own = x + t.to(tl.int64)[:, None] * x_n
    real = (t < T)[:, None]
    total = tl.zeros([BT], tl.float32)
    for start in range(0, E, CHUNK):
        e = start + tl.arange(0, CHUNK)
        states = tl.load(own + e[None, :], mask=real & (e < E)[None, :], other=0.0)
        total += tl.sum(states.to(tl.float32), 1)
    mean = (total / E)[:, None]
    total = tl.zeros([BT], tl.float32)
    for start in range(0, E, CHUNK):
        e = start + tl.arange(0, CHUNK)
        inside = real & (e < E)[None, :]
        states = tl.load(own + e[None, :], mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, states - mean, 0.0)
        total += tl.sum(centred * centred, 1)
    factor = (1.0 / tl.sqrt(total / E + epsilon))[:, None]
    hidden = tl.zeros([BT, BW], tl.float32)
    for start in range(0, E, CHUNK):
        e = start + tl.arange(0, CHUNK)
        inside = real & (e < E)[None, :]
        states = tl.load(own + e[None, :], mask=inside, other=0.0).to(tl.float32)
        states = tl.where(inside, states - mean, 0.0) * factor
        states = states * tl.load(norm_weight + e, mask=e < E, other=0.0)[None, :]
        states += tl.load(norm_bias + e, mask=e < E, other=0.0)[None, :]
        table = down + w[None, :] * E + e[:, None]
        first = tl.load(table, mask=(e < E)[:, None] & (w < W)[None, :], other=0.0)
        hidden += tl.dot(states, first, input_precision=PRECISION)
    hidden += tl.load(down_bias + w, mask=w < W, other=0.0)[None, :]
    hidden = 0.5 * hidden * (1.0 + tl.erf(hidden * ROOT_HALF))
    found = tl.sum(hidden * tl.load(up + w, mask=w < W, other=0.0)[None, :], 1) + tl.load(offset)
    tl.store(score + t, found, mask=t < T)
    kept = (found > 0.0) | (tl.load(special + t, mask=t < T, other=0) != 0)
    tl.store(stays + t, kept.to(tl.uint8), mask=t < T)
