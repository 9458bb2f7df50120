"""Gate and rule in two launches: from queries and keys to the lists, and to the whole decision if asked.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, D head size, R gate rank, M, S query and
key blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core.pairs import Allowed
from saa_core.triton import padded
from saa_core.triton.lists import Lists, empty_lists
from saa_core.triton.workspace import Workspace

KEY_BLOCKS = 16
"""Key blocks that one program pools and projects."""
HELD = 4096
"""Numbers of a tile of keys that are held at once."""
PRECISION = "tf32x3"
"""Products of scores: on matrix units in three parts, about as exact as float32. One part would differ by more than
ties from what PyTorch decides."""
PANEL = 64
"""Key blocks whose scores are computed at once."""
RANKED = 8192
"""Masses that one step of the rule holds; a longer row is a step of its own."""


@dataclass(frozen=True)
class Seen:
    """What queries see where a mask says so; the same for all layers of a call.

    Args:
        bounds: first and last key of each query, int32 [B or 1, 2, Q] (last < first: none).
        item: position of the first key that any query sees and of the last query that sees any, and the
            block of the first visible key of middle queries, int32 [B or 1, 3].
        valid: keys that any query sees, uint8 [B or 1, K].
    """

    bounds: Tensor
    item: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Task:
    """One call's constants: everything but a layer's tensors and weights.

    Args:
        queries, keys: lengths in tokens; of a captured graph the most that it takes.
        block: (queries, keys) per block in tokens.
        pooled: neighbouring queries that share a score row, of the gate.
        directed: of the gate.
        sink, local, tail: of the policy.
        seen: None where ``causal`` alone says what is allowed.
        live: queries and keys of the text at hand, int32 [2] on the device, where a captured graph serves
            every length up to its own.
    """

    queries: int
    keys: int
    causal: bool
    block: tuple[int, int]
    pooled: int
    directed: bool
    sink: int
    local: int
    tail: int
    seen: Seen | None = None
    live: Tensor | None = None

    @property
    def share(self) -> int:
        """Score rows per query block."""
        return self.block[0] // math.gcd(self.block[0], self.pooled)

    @property
    def blocks(self) -> tuple[int, int]:
        """M and S."""
        return -(-self.queries // self.block[0]), -(-self.keys // self.block[1])


@dataclass(frozen=True)
class Chosen:
    """What one layer decided, as a map: score [B, H, M, S], keep (bool), threshold [B, H, M]."""

    score: Tensor
    keep: Tensor
    threshold: Tensor


def seen_of(allowed: Allowed, block: tuple[int, int], pooled: int) -> Seen | None:
    """What queries see, once per call; None without a mask.

    Raises:
        AssertionError: the mask has gaps; ask :func:`saa_core.kernels.triton_refuses` before.
    """
    if allowed.given is None and allowed.bounds is None:
        return None
    assert allowed.intervals is not None
    first, last = (bound.int() for bound in allowed.intervals)
    sees = last >= first
    size = math.gcd(block[0], pooled)
    rows = -(-allowed.queries // block[0]) * block[0] // size
    at = torch.arange(rows, device=first.device) * size + size // 2
    at = at.clamp(max=allowed.queries - 1)
    place = torch.arange(allowed.queries, device=first.device, dtype=torch.int32)
    item = torch.stack(
        [
            _least(first, sees, 0),
            (place * sees).amax(1) + (allowed.keys - allowed.queries),
            _least(first[:, at], sees[:, at], 0) // block[1],
        ],
        1,
    )
    # A key is seen where more stretches have begun than ended.
    steps = torch.zeros(len(first), allowed.keys + 1, dtype=torch.int32, device=first.device)
    one = sees.int()
    steps.scatter_add_(1, first.long().where(sees, 0), one)
    steps.scatter_add_(1, (last.long() + 1).where(sees, 0), -one)
    valid = (steps.cumsum(1)[:, :-1] > 0).to(torch.uint8)
    return Seen(torch.stack([first, last], 1).contiguous(), item.int(), valid)


def _least(values: Tensor, there: Tensor, without: int) -> Tensor:
    """Smallest of those that are there, per row; ``without`` where there are none."""
    most = torch.iinfo(values.dtype).max
    least = values.masked_fill(~there, most).amin(1)
    return least.masked_fill(~there.any(1), without)


def decide(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    weights: Sequence[Tensor],
    task: Task,
    target: float,
    workspace: Workspace,
    *,
    codes: Tensor | None = None,
    stored: bool = False,
    listed: bool = True,
) -> tuple[Lists, Chosen | None]:
    """The kept blocks of one layer under the rule "mass".

    Args:
        weights: of the gate: ``query`` [H, 2 D, R], ``key`` [G, 3 D, R], ``distance`` [H, buckets],
            ``first`` [H].
        target: mass to keep, in (0, 1]; 1 keeps everything.
        workspace: of the call; the next layer overwrites what is in it.
        codes: blocks that are kept or excluded in any case, uint8 [B or 1, 1 or H, M, S], in place of
            sink, local and tail.
        stored: scores, keep and thresholds are wanted too, in memory of their own.
        listed: False leaves the lists empty.
    """
    from saa_core.triton.pool_keys import pool_keys
    from saa_core.triton.select_blocks import select_blocks

    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BHQD, k_BGKD))
    query, key, distance, first = (x.detach().float().contiguous() for x in weights)
    B, H, Q, D = q.shape
    G, R = k.shape[1], query.shape[-1]
    (bq, bk), (M, S), seen = task.block, task.blocks, task.seen
    shape = B, H, M, S
    size = padded(D)
    common = {"D": D, "BD": size, "R": R, "BR": padded(R), "BK": bk, "PRECISION": PRECISION}
    common |= {"MASKED": seen is not None, "LIVE": task.live is not None}
    live = first if task.live is None else task.live
    pooled = workspace.take("pooled", (B, G, S, R), torch.float32)
    valid = first if seen is None else seen.valid
    pool_keys[(-(-S // KEY_BLOCKS), B * G)](
        *(k, key, valid, pooled, live, *k.stride()[:3]),
        *(_step(valid, seen is not None), G, task.keys, S),
        TILE=KEY_BLOCKS,
        CHUNK=max(1, min(bk, HELD // (KEY_BLOCKS * size))),
        num_warps=8,
        **common,
    )
    lists = empty_lists(task.block, shape, workspace)
    if stored:
        mass = torch.zeros(shape, device=q.device)
        keep = torch.zeros(shape, dtype=torch.uint8, device=q.device)
        threshold = torch.full(shape[:3], torch.inf, device=q.device)
    else:
        mass = workspace.take("mass", shape, torch.float32)
        keep = threshold = mass
    rows, wide = max(16, task.share), padded(S)
    step = max(1, min(rows // task.share, RANKED // wide))
    bounds, item = (first, first) if seen is None else (seen.bounds, seen.item)
    codes_b, codes_h = (0, 0)
    if codes is not None:
        codes = codes.contiguous()
        codes_h = M * S if codes.shape[1] > 1 else 0
        codes_b = codes[0].numel() if len(codes) > 1 else 0
    select_blocks[(-(-M * task.share // rows), B * H)](
        *(q, pooled, query, distance, first, bounds, item),
        *(first if codes is None else codes, mass, keep, threshold, *lists.tensors, live),
        *(*q.stride()[:3], _step(bounds, seen is not None), _step(item, seen is not None)),
        *(codes_b, codes_h, H, G, Q, task.keys, M, S, distance.shape[1], float(target), D**-0.5),
        *(task.sink, task.local, task.tail),
        CAUSAL=task.causal,
        DIRECTED=task.directed,
        CODES=codes is not None,
        STORE=stored,
        LISTS=listed,
        BQ=bq,
        SHARE=task.share,
        SIZE=bq // task.share,
        ROWS=rows,
        BS=min(PANEL, wide),
        WIDE=wide,
        STEP=step,
        num_warps=4 if step * wide <= 2048 else 8,
        **common,
    )
    return lists, Chosen(mass, keep.view(torch.bool), threshold) if stored else None


def _step(x: Tensor, used: bool) -> int:
    """Numbers from one batch item to the next; 0 where all share one."""
    return x.stride(0) if used and len(x) > 1 else 0
