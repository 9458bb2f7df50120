"""Device code: the lists of a decision that was made elsewhere (a guard added blocks, another rule)."""

import triton
import triton.language as tl

from saa_core.triton.select_blocks import write_lists


@triton.jit
def list_blocks(
    keep,  # [B, H, M, S] uint8
    count,  # [B or 1, M, S] int32: allowed pairs per block
    full_count,
    full_index,
    part_count,
    part_index,
    count_b,
    H,
    M,
    S,
    PAIRS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One program per row: query block, head and batch item. PAIRS: of a block."""
    row = tl.program_id(0) + tl.arange(0, 1)
    m = row % M
    b = row // M // H
    s = tl.arange(0, WIDE)
    inside = (s < S)[None, :]
    kept = tl.load(keep + row.to(tl.int64)[:, None] * S + s[None, :], mask=inside, other=0) != 0
    at = count + b.to(tl.int64)[:, None] * count_b + m[:, None] * S + s[None, :]
    full = tl.load(at, mask=inside, other=0) == PAIRS
    live = row >= 0
    write_lists(kept, full, row, live, s, S, full_count, full_index, part_count, part_index)
