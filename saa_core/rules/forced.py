"""What is kept or dropped before any rule is asked: first and nearest keys, and a person's word.

Shapes: B batch, H heads, M query blocks, S key blocks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saa_core.errors import PolicyError
from saa_core.pairs import Allowed
from saa_core.types import EXCLUDED, FORCED, LOCAL, SINK, TAIL, Force, Policy

ROWS = 1024
"""Queries whose distances to all keys are held at once."""


def forced(allowed: Allowed, policy: Policy, block: tuple[int, int], count: Tensor) -> Tensor:
    """Blocks that are kept whatever the gate says: sink (first keys), local (nearest keys), and all
    keys of the last queries (tail).

    A block is forced if it holds one such pair. With padding on the left the first keys are the
    first that the batch item may see, so sinks are counted from there. A query whose nearest keys are
    all masked out keeps the nearest one that it sees, so that none is left with nothing.

    Args:
        policy: with a number for its tail (:meth:`Policy.resolved`).

    Returns:
        uint8 [B or 1, 1, M, S]: SINK, LOCAL, TAIL or 0, and 0 where no pair is allowed.

    Raises:
        PolicyError: the tail is left to the default, which depends on the model.
    """
    if policy.tail is None:
        raise PolicyError(
            "tail=None is left to the default of a model and a text; resolve it first"
        )
    bq, bk = block
    M, S = count.shape[-2:]
    q0 = torch.arange(M, device=count.device)[:, None] * bq + (allowed.keys - allowed.queries)
    k0 = torch.arange(S, device=count.device)[None] * bk
    first = _first_key(allowed)[:, None, None, None]
    # Nearest pair of the block: |q - k| is 0 where the spans overlap.
    behind = q0 - (k0 + bk - 1)
    ahead = k0 - (q0 + bq - 1)
    gap = torch.maximum(behind, ahead).clamp(min=0)
    sink = (k0 < first + policy.sink) & (k0 + bk > first)
    at_end = q0 + bq > _last_query(allowed)[:, None, None, None] + 1 - policy.tail
    tail = torch.where(at_end & (policy.tail > 0), TAIL, 0)
    near = gap < policy.local
    if allowed.mask is not None:
        near = near | _nearest_blocks(allowed, block, M, S)
    codes = torch.where(sink, SINK, torch.where(near, LOCAL, tail))
    return (codes * (count > 0)).to(torch.uint8)


def check_layers(entries: Sequence[Force], layers: int) -> None:
    """Raises PolicyError where a person's override names a layer that does not exist."""
    for entry in entries:
        if entry.layer is not None and entry.layer >= layers:
            raise PolicyError(
                f"force: layer={entry.layer} does not exist; choose 0 to {layers - 1}"
            )


def apply_overrides(
    codes: Tensor,
    count: Tensor,
    allowed: Allowed,
    entries: Sequence[Force],
    block: tuple[int, int],
    heads: int,
) -> Tensor:
    """The codes of :func:`forced` with what a person says about one layer.

    Args:
        codes, count: uint8 and int32 [B or 1, 1, M, S].

        entries: those of the layer, whatever their ``layer`` says.

    Returns:
        the same codes if there are no entries, else a copy, uint8 [B or 1, H, M, S].

    Raises:
        PolicyError: a head or a position does not exist.
    """
    for entry in entries:
        queries, keys = entry.stretch("query"), entry.stretch("key")
        for name, last, size in (
            ("head", entry.head, heads),
            ("query", queries and queries[1], allowed.keys),
            ("key", keys and keys[1], allowed.keys),
        ):
            if last is not None and last >= size:
                raise PolicyError(f"force: {name}={last} does not exist; choose 0 to {size - 1}")
    if not entries:
        return codes
    bq, bk = block
    M, S = codes.shape[-2:]
    offset = allowed.keys - allowed.queries
    q0 = torch.arange(M, device=codes.device)[:, None] * bq + offset
    k0 = torch.arange(S, device=codes.device)[None] * bk
    own = (q0 <= k0 + bk - 1) & (k0 <= q0 + bq - 1)
    codes = codes.expand(-1, heads, -1, -1).clone()
    for entry in entries:
        hit = torch.ones(1, heads, M, S, dtype=torch.bool, device=codes.device)
        if entry.head is not None:
            hit &= torch.arange(heads, device=codes.device)[:, None, None] == entry.head
        for stretch, start, size in (
            (entry.stretch("query"), q0, bq),
            (entry.stretch("key"), k0, bk),
        ):
            if stretch is not None:
                hit &= (start <= stretch[1]) & (stretch[0] < start + size)
        if not entry.keep:
            hit &= ~own
        codes[hit.expand_as(codes)] = FORCED if entry.keep else EXCLUDED
    return codes * (count > 0)


def _first_key(allowed: Allowed) -> Tensor:
    """Position of the first key that any query of the batch item may see, [B or 1]."""
    if allowed.mask is None:
        return torch.zeros(1, dtype=torch.long, device=allowed.device)
    return allowed.mask[:, 0].any(1).int().argmax(-1)


def _nearest_blocks(allowed: Allowed, block: tuple[int, int], M: int, S: int) -> Tensor:
    """Blocks that hold the nearest visible key of one of their queries, bool [B, 1, M, S]."""
    seen = allowed.pairs[:, 0]
    found = torch.zeros(len(seen), 1, M, S, dtype=torch.bool, device=seen.device)
    own = seen.diagonal(allowed.keys - allowed.queries, 1, 2)
    item, row = (~own & seen.any(-1)).nonzero(as_tuple=True)
    position = row + allowed.keys - allowed.queries
    keys = torch.arange(allowed.keys, dtype=torch.int32, device=seen.device)
    for part in torch.arange(len(row), device=seen.device).split(ROWS):
        away = (position[part, None].int() - keys).abs()
        away = away.masked_fill(~seen[item[part], row[part]], allowed.keys)
        found[item[part], 0, row[part] // block[0], away.argmin(-1) // block[1]] = True
    return found


def _last_query(allowed: Allowed) -> Tensor:
    """Position of the last query of the batch item that sees any key, [B or 1]."""
    if allowed.mask is None:
        return torch.full((1,), allowed.keys - 1, device=allowed.device)
    sees = allowed.mask[:, 0].any(2).int()
    last = allowed.queries - 1 - sees.flip(1).argmax(1)
    return last + allowed.keys - allowed.queries


def without_excluded(score: Tensor, forced: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Excluded blocks look to a rule like blocks in which nothing is allowed.

    Only a person excludes, and what a person says is given per head (:func:`apply_overrides`). Where that
    leaves a doubt it is looked for on a CPU; a GPU is not waited for.
    """
    if forced.shape[1] < score.shape[1]:
        return score, forced, count
    excluded = forced == EXCLUDED
    if forced.device.type == "cpu" and not bool(excluded.any()):
        return score, forced, count
    shape = torch.broadcast_shapes(forced.shape, count.shape)
    return (
        score.masked_fill(excluded, 0.0),
        forced.masked_fill(excluded, 0),
        count.expand(shape).masked_fill(excluded, 0),
    )
