"""Why one pair was decided as it was: what its score is made of, and what would have changed it.

Reads traces; for the parts of a score and the true weight, which no trace holds, it runs the model
once more on the trace's own tokens. Changes neither.

Shapes: H query heads, G key/value heads, Q, K positions, D head size, M, S query and key blocks,
P pooled query rows (a few per query block).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saa_core.attach import Model
from saa_core.attention import Call
from saa_core.errors import TraceError
from saa_core.gates import Calibration, PairGate, grid, pool_keys, pool_queries
from saa_core.runner import forward
from saa_core.trace import Array, Trace
from saa_core.types import EXCLUDED, Allowed, Policy

TOLERANCE = 2e-3
"""How far a recomputed score may lie from the stored one, which has 11 bits."""


@dataclass(frozen=True)
class Captured:
    """What one layer saw in a run: queries [1, H, Q, D] and keys [1, G, K, D] after rotation."""

    layer: int
    gate: PairGate
    q_BHQD: Tensor
    k_BGKD: Tensor
    allowed: Allowed
    scale: float


@dataclass(frozen=True)
class PairParts:
    """One pair's score, taken apart, and the attention that it really gets.

    The first four add up to ``logit``, a point on a logarithmic scale: 0.69 more doubles what the
    gate expects of this block against the other blocks of the row.

    Args:
        content: product of the pooled queries and keys.
        distance: the learned bias for how far the block lies from the query.
        sink: the learned bias of the block that holds the first key.
        visible: logarithm of the number of keys in the block that the query may see.
        row: logarithm of the sum over the row; exp(logit - row) is the row's predicted share.
        score: predicted share, averaged over the pooled rows of the query block, in [0, 1].
        threshold: what a block of this row needed; inf where no block but forced ones was kept.
        weight: true attention weight of this one pair, in [0, 1]: the softmax over all keys that the
            query may see, on the queries and keys of this run.
    """

    content: float
    distance: float
    sink: float
    visible: float
    row: float
    score: float
    threshold: float
    weight: float

    @property
    def logit(self) -> float:
        return self.content + self.distance + self.sink + self.visible


class _Reached(Exception):  # noqa: N818, not an error: the layer was reached, the rest is not needed
    pass


def capture(model: Model, trace: Trace, layer: int) -> Captured:
    """Runs the trace's tokens once more, up to one layer, under the trace's policy.

    Raises:
        TraceError: the layer does not exist, or the model has other layers than the trace.
    """
    if len(model.gates) != trace.shape[0]:
        raise TraceError(
            f"the trace has {trace.shape[0]} layers and the model {len(model.gates)}; it takes the "
            "model that made the trace"
        )
    if not 0 <= layer < trace.shape[0]:
        raise TraceError(f"layer={layer!r} does not exist; choose 0 to {trace.shape[0] - 1}")
    found: list[Captured] = []

    def observe(at: int, q: Tensor, k: Tensor, allowed: Allowed, scale: float) -> None:
        if at == layer:
            found.append(Captured(layer, model.gates[layer], q, k, allowed, scale))
            raise _Reached

    ids = torch.as_tensor(trace.token_ids, device=model.device)[None]
    try:
        with torch.inference_mode():
            forward(model, ids, Call(trace.policy, observe=observe))
    except _Reached:
        pass
    return found[0]


@torch.inference_mode()
def explain_pair(captured: Captured, trace: Trace, head: int, query: int, key: int) -> PairParts:
    """The parts of one pair's score, and its true attention weight.

    Args:
        captured: of the same trace, by :func:`capture`.

    Raises:
        TraceError: the pair is not allowed, the trace is dense, or the model gives this pair another
            score than the trace holds, so it is not the model that made the trace.
    """
    layer, gate, allowed = captured.layer, captured.gate, captured.allowed
    if trace.policy is None:
        raise TraceError("a dense run has no scores to explain")
    if not trace.allowed(layer)[query, key]:
        raise TraceError(f"query={query} may not see key={key} in layer {layer}")
    bq, bk = trace.block
    m, s = query // bq, key // bk
    laid = grid(allowed, trace.block, torch.tensor([m], device=captured.q_BHQD.device))
    p = query % bq // (bq // laid.share)  # the pooled row that holds the query
    group = head // (gate.config.heads // gate.config.key_heads)
    rows_PE = pool_queries(captured.q_BHQD[:, head : head + 1], laid)[0, 0].to(gate.query.dtype)
    keys_SE = pool_keys(captured.k_BGKD[:, group : group + 1], allowed, bk)[0, 0]
    query_PR = rows_PE @ (gate.query[head] / math.sqrt(captured.q_BHQD.shape[-1]))
    key_SR = keys_SE.to(gate.key.dtype) @ gate.key[group]
    content_PS = (query_PR @ key_SR.T).float()
    distance_PS = gate.distance[head].float()[laid.bucket(gate.config.directed).long()]
    visible_PS = laid.log_visible[0, 0].expand_as(content_PS)
    is_first = torch.zeros_like(content_PS)
    is_first[:, 0] = 1.0
    if laid.first is not None:
        is_first = laid.first[0, 0].expand_as(content_PS)
    sink_PS = gate.first[head].float() * is_first
    logit_PS = content_PS + distance_PS + visible_PS + sink_PS
    score = float(logit_PS.softmax(-1).mean(0)[s])
    stored = trace.maps(layer)
    expected = float(stored.score[head, m, s])
    if not math.isclose(score, expected, rel_tol=10 * TOLERANCE, abs_tol=TOLERANCE):
        raise TraceError(
            f"the model scores this pair {score:.4f}, the trace says {expected:.4f}; it takes the "
            "model and gate that made the trace"
        )
    return PairParts(
        content=float(content_PS[p, s]),
        distance=float(distance_PS[p, s]),
        sink=float(sink_PS[p, s]),
        visible=float(visible_PS[p, s]),
        row=float(logit_PS[p].logsumexp(-1)),
        score=score,
        threshold=float(stored.threshold[head, m]),
        weight=_weight(captured, head, group, query, key),
    )


def _weight(captured: Captured, head: int, group: int, query: int, key: int) -> float:
    """The true softmax of one query, at one key."""
    q_D = captured.q_BHQD[0, head, query].float()
    dots_K = captured.k_BGKD[0, group].float() @ q_D * captured.scale
    seen_K = captured.allowed.pairs[0, 0, query]
    return float(dots_K.masked_fill(~seen_K, -torch.inf).softmax(-1)[key])


def turning_point(trace: Trace, layer: int, head: int, query: int, key: int) -> float | None:
    """Where the decision on a pair's block turns, as the target of the rule in this layer.

    Exact for the scores that the trace holds. Under rule "mass" the block is kept if the target is
    above this share of the row's predicted mass (or 1), and dropped if it is not; under rule
    "budget" it is kept if the target is at least this share of the layer's allowed pairs. What a
    policy must say for that, :func:`aim_for` knows.

    Returns:
        None where no target changes anything: a dense run, a pair that is not allowed, and blocks on
        which the gate has no say (sink, local, or a person).
    """
    bq, bk = trace.block
    m, s = query // bq, key // bk
    if trace.policy is None or not trace.allowed(layer)[query, key]:
        return None
    if trace.forced_codes(layer, head)[m, s]:
        return None
    if trace.policy.rule == "budget":
        return _budget_point(trace, layer, head, m, s)
    score = trace.maps(layer).score[head, m].astype(np.float64)
    codes = trace.forced_codes(layer, head)[m]
    score[codes == EXCLUDED] = 0.0
    held = score[codes > 0].sum()
    free = np.where(codes > 0, 0.0, score)
    total = held + free.sum()
    return float((held + free[free > free[s]].sum()) / total) if total > 0 else 1.0


def _budget_point(trace: Trace, layer: int, head: int, m: int, s: int) -> float:
    """Pairs of all heads that are paid for before this block, itself included, over all allowed."""
    score = trace.maps(layer).score
    count = block_counts(trace, layer)
    codes = np.stack([trace.forced_codes(layer, h) for h in range(trace.shape[1])])
    wide = np.broadcast_to(count, score.shape)
    before = (codes > 0) & (codes != EXCLUDED)
    before |= (score >= score[head, m, s]) & (codes == 0)
    return float(wide[before].sum() / wide.sum())


def block_counts(trace: Trace, layer: int) -> Array:
    """Allowed pairs per block, int64 [M, S]."""
    bq, bk = trace.block
    kind = trace.plan[layer]
    first, end = trace.first[kind][:, None].astype(np.int64), trace.last[kind][:, None] + 1
    start = np.arange(0, trace.keys, bk)[None]
    seen = np.clip(np.minimum(end, start + bk) - np.maximum(first, start), 0, None)
    counts: Array = np.add.reduceat(seen, np.arange(0, trace.queries, bq), axis=0)
    return counts


def aim_for(policy: Policy, calibration: Calibration, target: float) -> float:
    """What a policy must aim at for one layer's rule to aim at ``target``.

    The inverse of :meth:`saa_core.gates.PairGate.target`; outside (0, 1] no policy does it.
    """
    if policy.rule == "mass":
        return 1.0 - (1.0 - target) / calibration.slack
    return target / (calibration.share if policy.budget_over == "call" else 1.0)
