"""Why one pair was kept or dropped, and what would have changed it.

`boundary` needs only a trace. `explain` runs the model once more to take the score apart and to
read the true attention weight; it changes nothing.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saa_core.attention import Call
from saa_core.errors import TraceError
from saa_core.gates.pair import PairGate, grid, pool_keys, pool_queries
from saa_core.model import Model
from saa_core.pairs import Allowed, Decision
from saa_core.run.execute import forward
from saa_core.trace.mass import true_mass
from saa_core.trace.trace import Trace
from saa_core.types import EXCLUDED, TOKEN


@dataclass(frozen=True)
class Boundary:
    """Where a policy would decide the other way about one pair, all else being equal.

    Args:
        kept: the pair is kept now.
        value: mass or budget at the boundary: above it the pair is kept, below it dropped. None if
            no value changes the decision (forced, excluded or not allowed).
        margin: score minus threshold of its block; None where there is none.
    """

    kept: bool
    value: float | None
    margin: float | None


def boundary(trace: Trace, layer: int, head: int, query: int, key: int) -> Boundary:
    """The policy value at which the decision about one pair would turn.

    For rule "mass" it follows from the scores of the pair's row; for a budget per layer from all
    scores of the layer.

    Raises:
        TraceError: the trace is dense or a summary, or the pair does not exist.
    """
    if trace.policy is None:
        raise TraceError("the trace is of a dense run, in which nothing was decided")
    if not (0 <= query < trace.queries and 0 <= key < trace.keys):
        raise TraceError(
            f"query={query!r}, key={key!r} do not exist; choose 0 to {trace.queries - 1} and 0 to "
            f"{trace.keys - 1}"
        )
    part = np.s_[query : query + 1, key : key + 1]
    maps = trace.decision(layer, head)
    m, s = query // trace.block[0], key // trace.block[1]
    kept = bool(trace.keep_map(layer, head, part).item())
    codes = trace.forced_codes(layer, head)
    if codes[m, s] or not trace.allowed(layer, part).item():
        return Boundary(kept, None, None)
    score = float(maps.score[m, s])
    margin = score - float(maps.threshold[m])
    if trace.policy.rule_name == "mass":
        row, forced = maps.score[m].astype(np.float64), codes[m]
        gone = np.isin(forced, (EXCLUDED, TOKEN))
        total = row[~gone].sum()
        before = row[(forced > 0) & ~gone].sum()
        before += row[(forced == 0) & (row > score)].sum()
        wanted = before / max(total, 1e-12)
        missed = 1.0 - float(trace.policy.aim)
        slack = (1.0 - float(trace.targets[layer])) / missed if missed > 0 else 1.0
        value = float(1.0 - (1.0 - wanted) / slack) if slack > 0 else None
    else:
        value = _budget_boundary(trace, layer, score)
    return Boundary(kept, value, margin if np.isfinite(margin) else None)


def _budget_boundary(trace: Trace, layer: int, score: float) -> float:
    """The budget that pays for everything in the layer that scores at least this much."""
    assert trace.policy is not None
    count = trace.allowed_count(layer)
    total = needed = 0
    for head in range(trace.shape[1]):
        codes, maps = trace.forced_codes(layer, head), trace.decision(layer, head)
        gone = np.isin(codes, (EXCLUDED, TOKEN))
        paid = (codes > 0) & ~gone
        total += (
            int(count[codes != TOKEN].sum()) if codes.shape == count.shape else int(count.sum())
        )
        needed += int(count[paid | ((codes == 0) & (maps.score >= score))].sum())
    share = float(trace.targets[layer]) / trace.policy.aim
    return needed / max(total, 1) / max(share, 1e-9)


@dataclass(frozen=True)
class Parts:
    """The score of one pair taken apart, and the truth beside it.

    The logit is ``content + distance + first + log(visible)``; a softmax over the row's blocks and
    the mean over the query block's pooled rows make the score.

    Args:
        content: product of the projected query and key.
        distance: learned bias for how far apart they are.
        first: learned bias of the first block; 0 elsewhere.
        visible: keys of the block that the query may see.
        weight: the dense model's attention weight on this pair, a probability.
        block_weight: the same, summed over the keys of the block.
    """

    content: float
    distance: float
    first: float
    visible: float
    weight: float
    block_weight: float

    @property
    def logit(self) -> float:
        return self.content + self.distance + self.first + float(np.log(max(self.visible, 1e-9)))


class _SeenError(Exception):
    """The layer was reached; those behind it need not run."""


class LayerInputs:
    """Queries and keys of one layer of one text, kept so that many pairs can be explained.

    Args:
        model: the model that made the trace, with the same gates.

    Raises:
        TraceError: the trace is dense, or the layer does not exist.
    """

    def __init__(self, model: Model, trace: Trace, layer: int) -> None:
        if trace.policy is None:
            raise TraceError("the trace is of a dense run, in which nothing was scored")
        if trace.policy.tokens is not None:
            raise TraceError(
                "scores cannot be taken apart where whole tokens may be dropped; run without tokens"
            )
        if not 0 <= layer < len(model.gates):
            raise TraceError(f"layer={layer!r} does not exist; choose 0 to {len(model.gates) - 1}")
        self.block = trace.block
        self.gate: PairGate = model.gates[layer]
        self._seen: list[tuple[Tensor, Tensor, Allowed, float]] = []

        def observe(index: int, q: Tensor, k: Tensor, allowed: Allowed, scale: float) -> None:
            if index == layer:
                self._seen.append((q.float(), k.float(), allowed, scale))
                raise _SeenError

        ids = torch.from_numpy(trace.token_ids)[None].to(model.device)
        with torch.inference_mode(), contextlib.suppress(_SeenError):
            forward(model, ids, Call(trace.policy, observe=observe))

    @torch.inference_mode()
    def retained_mass(self, trace: Trace, head: int) -> float:
        """The share of the true attention mass that a head keeps, over all queries: exact, also where the trace
        holds an estimate.

        Raises:
            TraceError: the head does not exist.
        """
        q_BHQD, k_BGKD, allowed, scale = self._seen[0]
        keep = torch.from_numpy(trace.decision(self.gate.layer, head).keep)[None, None]
        nothing = torch.zeros(1)
        decision = Decision(trace.block, keep.to(q_BHQD.device), nothing, nothing, nothing, nothing)
        group = head // (q_BHQD.shape[1] // k_BGKD.shape[1])
        own = q_BHQD[:, head : head + 1], k_BGKD[:, group : group + 1]
        rows, _ = true_mass(*own, decision, allowed, scale)
        return float(rows.sum() / allowed.pairs.any(-1).sum().clamp(min=1))

    @torch.inference_mode()
    def parts(self, head: int, query: int, key: int) -> Parts:
        """Takes the score of one pair apart.

        Raises:
            TraceError: the head or the pair does not exist.
        """
        q_BHQD, k_BGKD, allowed, scale = self._seen[0]
        H, Q, D = q_BHQD.shape[1:]
        if not (0 <= head < H and 0 <= query < Q and 0 <= key < allowed.keys):
            raise TraceError(f"head={head!r}, query={query!r}, key={key!r} do not exist")
        gate, (bq, bk) = self.gate, self.block
        whole = grid(allowed, self.block, pooled=gate.pooled)
        size = bq // whole.share
        row, block, group = query // size, key // bk, head // (H // k_BGKD.shape[1])
        pooled_q = pool_queries(q_BHQD, whole)[0, head, row].to(gate.query.dtype)
        pooled_k = pool_keys(k_BGKD, allowed, bk)[0, group, block].to(gate.key.dtype)
        content = (pooled_q @ gate.query[head] / D**0.5) @ (pooled_k @ gate.key[group])
        bucket = int(whole.bucket(gate.config.directed)[row, block])
        products = (k_BGKD[0, group] @ q_BHQD[0, head, query]) * scale
        weights = products.masked_fill(~allowed.pairs[0, 0, query], -torch.inf).softmax(-1)
        return Parts(
            content=float(content),
            distance=float(gate.distance[head, bucket]),
            first=float(gate.first[head]) if block == 0 else 0.0,
            visible=float(whole.log_visible[0, 0, row, block].exp()),
            weight=float(weights[key]),
            block_weight=float(weights[block * bk : (block + 1) * bk].sum()),
        )
