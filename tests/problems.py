"""Random attention problems for kernel and rule tests: lengths, padding, grouped heads, decisions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core import rules
from saa_core.pairs import Allowed, Decision
from saa_core.types import Policy


@dataclass(frozen=True)
class Problem:
    """Queries, keys and values with what is allowed and what was decided."""

    q: Tensor
    k: Tensor
    v: Tensor
    allowed: Allowed
    decision: Decision
    scale: float


def mask_of(kind: str | None, batch: int, queries: int, keys: int, causal: bool) -> Tensor | None:
    """A Transformers-like mask: the first item is padded on a side, the others are whole."""
    if kind is None:
        return None
    pairs = Allowed(queries, keys, causal, torch.device("cpu")).pairs
    mask = pairs.expand(batch, 1, queries, keys).clone()
    third = max(keys // 3, 1) if keys > 1 else 0
    if kind == "left":
        mask[0, :, :, :third] = False
    elif kind == "right":
        mask[0, :, :, keys - third :] = False
    elif kind == "gap":
        mask[0, :, :, third : keys // 2] = False
    else:
        raise AssertionError(kind)
    return mask


def problem(
    queries: int,
    keys: int | None = None,
    *,
    batch: int = 1,
    heads: int = 4,
    key_heads: int = 2,
    size: int = 16,
    block: tuple[int, int] = (32, 16),
    mask: str | None = None,
    causal: bool = True,
    mass: float = 0.8,
) -> Problem:
    keys = queries if keys is None else keys
    q = torch.randn(batch, heads, queries, size)
    k = torch.randn(batch, key_heads, keys, size)
    v = torch.randn(batch, key_heads, keys, size)
    allowed = Allowed(queries, keys, causal, q.device, mask_of(mask, batch, queries, keys, causal))
    count = allowed.count(block)
    forced = rules.forced(allowed, Policy(tail=0), block, count)
    score = torch.rand(batch, heads, *count.shape[2:]) ** 3 * (count > 0)
    score = score / score.sum(-1, keepdim=True).clamp(min=1e-9)
    keep, threshold = rules.mass(score, forced, count, mass)
    decision = Decision(block, keep, score, threshold, forced, count)
    return Problem(q, k, v, allowed, decision, size**-0.5)


SHAPES = {
    "whole-blocks": {"queries": 128},
    "ragged-end": {"queries": 101},
    "one-token": {"queries": 1},
    "shorter-than-a-block": {"queries": 7},
    "pair-by-pair": {"queries": 45, "block": (1, 1)},
    "odd-blocks": {"queries": 70, "block": (8, 4)},
    "padded-left": {"queries": 90, "batch": 2, "mask": "left"},
    "padded-right": {"queries": 90, "batch": 3, "mask": "right"},
    "mask-with-a-gap": {"queries": 66, "batch": 2, "mask": "gap"},
    "both-directions": {"queries": 100, "causal": False},
    "last-queries-of-a-cache": {"queries": 20, "keys": 150},
    "no-grouped-heads": {"queries": 64, "heads": 4, "key_heads": 4},
    "nine-heads-of-64": {"queries": 200, "heads": 9, "key_heads": 3, "size": 64},
}
