"""The true attention mass of a decision: of every query, or of some that are drawn.

Of every query it costs more than the layer itself, since the dense softmax is written down. Of drawn ones it
is an estimate whose error is known: one query is drawn from each of equally long stretches of the text.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, R drawn queries, S key blocks.
"""

import functools

import torch
from torch import Tensor

from saa_core.exact import PLAIN, Softmax, attention_weights, per_block
from saa_core.pairs import Allowed, Decision, expand

SLICE = 256
"""Queries per slice; bounds memory to B * H * SLICE * K floats."""


@functools.lru_cache(maxsize=32)
def drawn_queries(queries: int, count: int) -> Tensor | None:
    """Positions of queries to look at, ascending int64 [count]: one at random from each of ``count``
    equally long stretches, so that each has the same chance and their plain mean is right on average.
    The draw is the same every time. None where there are not more queries than that: all are looked at.
    """
    if queries <= count:
        return None
    draw = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places = (torch.arange(count, dtype=torch.float64) + draw) * queries / count
    return places.long().clamp(max=queries - 1)


def true_mass(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    decision: Decision | None,
    allowed: Allowed,
    scale: float,
    softmax: Softmax = PLAIN,
) -> tuple[Tensor, Tensor]:
    """(retained mass of each query [B, H, Q], attention received per token [B, H, K]) of the dense
    softmax."""
    B, H, Q, _ = q_BHQD.shape
    K = k_BGKD.shape[2]
    kept = torch.zeros(B, H, Q, device=q_BHQD.device)
    received = torch.zeros(B, H, K, device=q_BHQD.device)
    for start in range(0, Q, SLICE):
        part = slice(start, min(start + SLICE, Q))
        pairs = allowed.pairs[:, :, part]
        weights = attention_weights(q_BHQD[:, :, part], k_BGKD, pairs, scale, softmax.at(part))
        received += weights.sum(2)
        if decision is None:
            kept[:, :, part] = weights.sum(3)
            continue
        bq = decision.block[0]
        first, last = start // bq, -(-part.stop // bq)
        keep = expand(decision.keep[:, :, first:last], decision.block, Q, K)
        offset = start - first * bq
        kept[:, :, part] = (weights * keep[:, :, offset : offset + part.stop - start]).sum(3)
    viewers = allowed.pairs.sum(2).clamp(min=1)
    return kept.cpu(), (received / viewers).cpu()


def drawn_mass(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    decision: Decision | None,
    allowed: Allowed,
    scale: float,
    rows_R: Tensor,
    softmax: Softmax = PLAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of drawn queries.

    The last query sees every key, so that it is looked at as well for what a token receives: no key is
    left without a viewer. It does not count in the retained mass unless it was drawn.

    Returns:
        retained mass of each drawn query, [B, H, R]; whether it sees any key, bool [B or 1, 1, R];
        attention received per token, mean over the drawn queries that may see it, [B, H, K].
    """
    rows = torch.cat([rows_R, rows_R.new_tensor([q_BHQD.shape[2] - 1])]).to(q_BHQD.device)
    pairs = _pairs_of(allowed, rows)
    some = softmax if softmax.bias is None else softmax.at(rows.expand(len(q_BHQD), -1))
    weights = attention_weights(q_BHQD[:, :, rows], k_BGKD, pairs, scale, some)
    received = weights.sum(2) / pairs.sum(2).clamp(min=1)
    weights, seen = weights[:, :, :-1], pairs[:, :, :-1].any(-1)
    if decision is None:
        return weights.sum(3).cpu(), seen.cpu(), received.cpu()
    keep = decision.keep[:, :, rows[:-1] // decision.block[0]]
    kept = (per_block(weights, decision.block[1]) * keep).sum(3)
    return kept.cpu(), seen.cpu(), received.cpu()


def _pairs_of(allowed: Allowed, rows: Tensor) -> Tensor:
    """Keys that some queries see, bool [B or 1, 1, R, K]; all pairs are not written down for it."""
    if allowed.intervals is None:
        return allowed.pairs[:, :, rows]
    first, last = (bound[:, rows, None] for bound in allowed.intervals)
    keys = torch.arange(allowed.keys, device=allowed.device)
    return ((keys >= first) & (keys <= last))[:, None]
