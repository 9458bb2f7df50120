"""Block-sparse attention on a CUDA GPU by PyTorch's FlexAttention, compiled for that GPU.

It is compiled with ``fullgraph=True``: where Dynamo would fall back to the unfused version, which is
10 to 20 times slower than dense, this raises instead. Lengths are padded to whole steps and batch
items run one by one, so that one compiled graph serves all lengths, batches and paddings.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from saa_core.errors import KernelError
from saa_core.native import compile_seconds
from saa_core.pairs import Allowed, Decision
from saa_core.triton.lists import Lists

if TYPE_CHECKING:  # importing it brings the compiler, which takes seconds
    from torch.nn.attention.flex_attention import BlockMask

SMALLEST_TILE = 16
"""FlexAttention computes no finer tiles on a GPU."""
SMALLEST_LENGTH = 64
"""Lengths are padded at least to this, so that no graph is specialised to a tiny one."""
LARGEST_TILE = (128, 64)
"""(queries, keys) that a GPU computes at once, at most."""


def flex(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    decision: Decision,
    allowed: Allowed,
    scale: float,
) -> Tensor:
    """Softmax attention over the kept blocks; [B, H, Q, D].

    Raises:
        KernelError: the queries are not on a CUDA GPU, the decision cannot be executed in tiles (single
            pairs, a mask with gaps), or it would run unfused.
    """
    reason = flex_unavailable(q_BHQD.device.type) or flex_refuses(decision.block, allowed)
    if reason:
        raise KernelError(f"kernel='flex' cannot run: {reason}, or use kernel='gather'")
    B, H, Q, _ = q_BHQD.shape
    step = math.lcm(*decision.block, SMALLEST_LENGTH)
    # Contiguous, because Dynamo compiles another graph for other strides; the copies take 0.1 ms.
    q, k, v = (pad(x, (0, 0, 0, -x.shape[2] % step)).contiguous() for x in (q_BHQD, k_BGKD, v_BGKD))
    lengths = (q.shape[2], k.shape[2])
    out = []
    for item in range(B):
        mask = _block_mask(decision, allowed, item, lengths)
        one = slice(item, item + 1)
        out.append(_run(q[one], k[one], v[one], mask, scale, k.shape[1] != H))
    mixed = (out[0] if B == 1 else torch.cat(out))[:, :, :Q]
    return mixed if allowed.mask is None else _without_blind(mixed, allowed)


def flex_lists(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    lists: Lists,
    allowed: Allowed,
    scale: float,
    *,
    flash: bool = False,
) -> Tensor:
    """The same over lists that are there already, so that nothing is sorted or counted; [B, H, Q, D].

    Args:
        flash: by FlashAttention 4 behind the same interface.
    """
    B, H, Q, _ = q_BHQD.shape
    step = math.lcm(*lists.block, SMALLEST_LENGTH)
    q, k, v = (pad(x, (0, 0, 0, -x.shape[2] % step)).contiguous() for x in (q_BHQD, k_BGKD, v_BGKD))
    lengths = (q.shape[2], k.shape[2])
    out = []
    for item in range(B):
        one = slice(item, item + 1)
        mask = listed_mask(lists, allowed, item, lengths)
        out.append(_run(q[one], k[one], v[one], mask, scale, k.shape[1] != H, flash))
    mixed = (out[0] if B == 1 else torch.cat(out))[:, :, :Q]
    return mixed if allowed.mask is None else _without_blind(mixed, allowed)


def listed_mask(lists: Lists, allowed: Allowed, item: int, lengths: tuple[int, int]) -> "BlockMask":
    """FlexAttention's form of one batch item's lists, for padded lengths."""
    from torch.nn.attention.flex_attention import BlockMask

    bq, bk = lists.block
    M, S = lengths[0] // bq, lengths[1] // bk
    one = slice(item, item + 1)
    counts = [pad(x[one], (0, M - x.shape[2])) for x in (lists.part_count, lists.full_count)]
    index = [
        pad(x[one], (0, S - x.shape[3], 0, M - x.shape[2]))
        for x in (lists.part_index, lists.full_index)
    ]
    mask: BlockMask = BlockMask.from_kv_blocks(
        *(counts[0], index[0], counts[1], index[1]),
        BLOCK_SIZE=lists.block,
        mask_mod=_mask_mod(allowed, item, lengths[0]),
        seq_lengths=lengths,
        compute_q_blocks=False,
    )
    return mask


def _mask_mod(
    allowed: Allowed, item: int, queries: int
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """What FlexAttention asks of single pairs: whether the key lies in the query's stretch."""
    assert allowed.intervals is not None
    first, last = (_stretch(x[item if len(x) > 1 else 0], queries) for x in allowed.intervals)

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k >= first[q]) & (k <= last[q])

    return mask_mod


def _without_blind(mixed_BHQD: Tensor, allowed: Allowed) -> Tensor:
    """Zeros for queries that see nothing."""
    assert allowed.intervals is not None
    first, last = allowed.intervals
    return mixed_BHQD.masked_fill((last < first)[:, None, :, None], 0.0)


def flex_unavailable(device: str) -> str:
    """Reason it cannot run on this kind of device, or ''."""
    return "" if device == "cuda" else f"it is made for a CUDA GPU, and the model is on {device}"


def flex_refuses(block: tuple[int, int], allowed: Allowed) -> str:
    """Reason this decision cannot be executed in tiles, or ''."""
    if min(block) < SMALLEST_TILE:
        return (
            f"it executes blocks of at least {SMALLEST_TILE} x {SMALLEST_TILE}, and this text is "
            f"decided in blocks of {block[0]} x {block[1]}; set granularity='block'"
        )
    if allowed.intervals is None:
        return "the attention mask has gaps"
    return ""


def _block_mask(
    decision: Decision, allowed: Allowed, item: int, lengths: tuple[int, int]
) -> "BlockMask":
    """The kept tiles of one batch item: full ones run unmasked, partial ones ask ``mask_mod``."""
    from torch.nn.attention.flex_attention import BlockMask

    bq, bk = decision.block
    keep = decision.keep[item : item + 1]
    count = decision.count[item if len(decision.count) > 1 else 0][None]
    fill = (0, lengths[1] // bk - keep.shape[3], 0, lengths[0] // bq - keep.shape[2])
    keep, whole = pad(keep, fill), pad(count == bq * bk, fill)
    partial, full = _lists(keep & ~whole), _lists(keep & whole)
    mask: BlockMask = BlockMask.from_kv_blocks(
        *partial,
        *full,
        BLOCK_SIZE=decision.block,
        mask_mod=_mask_mod(allowed, item, lengths[0]),
        seq_lengths=lengths,
        compute_q_blocks=False,
    )
    return mask


def _lists(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Number of kept key tiles per query tile, and their indices in front; int32."""
    order = keep.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    return keep.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _stretch(row: Tensor, length: int) -> Tensor:
    """[Q] to [length], the last value repeated."""
    return torch.cat([row, row[-1:].expand(length - len(row))])


def graph_count() -> int:
    """Graphs that Dynamo has compiled in this process; unchanged means that nothing recompiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@functools.cache
def _compile() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, fullgraph=True, dynamic=True)


def _tile(block: tuple[int, int]) -> dict[str, Any]:
    """A tile that divides the decided blocks: the default of 128 x 128 refuses smaller ones."""
    tile = (math.gcd(side, most) for side, most in zip(block, LARGEST_TILE, strict=True))
    return dict(zip(("BLOCK_M", "BLOCK_N"), tile, strict=True)) | {"FORCE_USE_FLEX_ATTENTION": True}


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: "BlockMask",
    scale: float,
    grouped: bool,
    flash: bool = False,
) -> Tensor:
    """One batch item through the compiled engine, with its failures turned into sentences."""
    from torch._dynamo.exc import FailOnRecompileLimitHit
    from torch._inductor.exc import InductorError

    graphs, started = graph_count(), time.perf_counter()
    options = {"BACKEND": "FLASH"} if flash else _tile(mask.BLOCK_SIZE)
    try:
        out: Tensor = _compile()(
            q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped, kernel_options=options
        )
    except FailOnRecompileLimitHit as error:
        raise KernelError(
            "kernel='flex' has met more kinds of heads and block sizes in this process than "
            f"torch._dynamo.config.recompile_limit={torch._dynamo.config.recompile_limit} allows "
            "and would run unfused, slower than dense; raise the limit or use kernel='gather'"
        ) from error
    except InductorError as error:
        raise KernelError(
            f"kernel='flex' could not be compiled for q {tuple(q.shape)}, k {tuple(k.shape)}: "
            f"{str(error).splitlines()[0]}; use kernel='gather'"
        ) from error
    if graph_count() > graphs:
        compile_seconds.append(time.perf_counter() - started)
    return out
