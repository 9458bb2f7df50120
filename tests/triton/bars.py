"""Device code of a test: the bisection alone."""

import triton
import triton.language as tl

from saa_core.triton.select_blocks import bisect


@triton.jit
def bars(free, wanted, out, ROWS: tl.constexpr, WIDE: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, WIDE)
    found = bisect(tl.load(free + row[:, None] * WIDE + column[None, :]), tl.load(wanted + row))
    tl.store(out + row, found)
