"""Exact attention of some queries: what a gate is trained on, judged by and guarded with.

Shapes: B batch, H query heads, G key/value heads, R queries, K keys, S key blocks, D head size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Softmax:
    """How scores become weights in models that do more than scale them.

    The product of query and key is scaled, capped, biased; the softmax may hold one more score per
    head that takes weight and gives none (a sink); weights may be dropped at random.

    Args:
        softcap: scores become softcap * tanh(score / softcap).
        bias: added to scores, [1 or B, 1 or H, Q, K].
        sinks: score of each head's sink, [H].
        dropout: share of the weights that is dropped, the others made larger.
    """

    softcap: float | None = None
    bias: Tensor | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0

    @property
    def plain(self) -> bool:
        """Nothing but the scale."""
        return self.kinds == ""

    @property
    def kinds(self) -> str:
        """What there is beyond the scale, in words; empty if nothing."""
        named = {
            "soft caps": self.softcap is not None,
            "biases": self.bias is not None,
            "attention sinks": self.sinks is not None,
            "dropout": self.dropout > 0,
        }
        return ", ".join(name for name, there in named.items() if there)

    def at(self, rows: slice | Tensor) -> "Softmax":
        """The same for some queries: a slice, or indices [B, R]."""
        if self.bias is None:
            return self
        if isinstance(rows, slice):
            return replace(self, bias=self.bias[:, :, rows])
        heads, keys = self.bias.shape[1], self.bias.shape[3]
        index = rows[:, None, :, None].expand(-1, heads, -1, keys)
        return replace(self, bias=self.bias.expand(len(rows), -1, -1, -1).gather(2, index))

    def bent(self, scores_BHRK: Tensor) -> Tensor:
        """Scaled scores, capped and biased; float32."""
        if self.softcap is not None:
            scores_BHRK = self.softcap * torch.tanh(scores_BHRK / self.softcap)
        return scores_BHRK if self.bias is None else scores_BHRK + self.bias


PLAIN = Softmax()


def attention_weights(
    q_BHRD: Tensor, k_BGKD: Tensor, pairs: Tensor, scale: float, softmax: Softmax = PLAIN
) -> Tensor:
    """Softmax over the keys that each query sees, float32 [B, H, R, K].

    Args:
        pairs: keys that each query sees, bool, broadcasts to [B, 1, R, K]. A query that sees none
            gives none any weight.
        softmax: its caps and biases, of these queries. Sinks are left out, so that weights are shares
            of what keys get; and so is dropout.
    """
    B, H, R, D = q_BHRD.shape
    G, K = k_BGKD.shape[1:3]
    grouped = (q_BHRD.float() * scale).reshape(B, G, H // G * R, D)
    scores = softmax.bent((grouped @ k_BGKD.float().transpose(-1, -2)).view(B, H, R, K))
    weights = scores.masked_fill_(~pairs, -torch.inf).softmax(-1)
    blind = ~pairs.any(-1, keepdim=True)
    return weights.masked_fill_(blind, 0.0) if bool(blind.any()) else weights


def per_block(weights_BHRK: Tensor, wide: int) -> Tensor:
    """Weights summed over blocks of ``wide`` keys, [B, H, R, S]."""
    missing = -weights_BHRK.shape[-1] % wide
    whole = pad(weights_BHRK, (0, missing)) if missing else weights_BHRK
    mass: Tensor = whole.unflatten(-1, (-1, wide)).sum(-1)
    return mass
