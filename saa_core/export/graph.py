"""An encoder with its token gates as one graph that ONNX can hold, of texts that lie in a padded table.

The rows of all texts are packed behind each other at once, so that linear layers and norms meet only
tokens that are still needed; a token that its gate drops is gone from the tensors. The attention alone
is padded, to the most tokens that any text still has. A dropped token stays in the mean of its text
with the state that it had. It is what run/varlen.py does, with no loop over texts.

Shapes: B texts, N tokens of the longest one, A tokens of all texts that are still needed, E hidden size,
H heads, D head size, W most needed tokens of one text, C labels, L layers.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from saa_core.families.packing import PackedLayer
from saa_core.gates.token import SHARES, TokenGate
from saa_core.model import Model
from saa_core.run.varlen import packing_of, special_ids, token_gates
from saa_core.task import margins


@dataclass(frozen=True)
class Rows:
    """Tokens that are still needed, of all texts behind each other.

    Args:
        x: hidden states [A, E].
        text: which text each belongs to, int64 [A].
        place: where each stands in the padded table, flattened, int64 [A].
        fixed: those that no gate drops, bool [A].
        owner: 1 where a row belongs to a text, else 0, float32 [B, A].
    """

    x: Tensor
    text: Tensor
    place: Tensor
    fixed: Tensor
    owner: Tensor

    def take(self, kept: Tensor) -> "Rows":
        """The rows at these indices, which ascend."""
        return Rows(
            take(self.x, kept),
            self.text.index_select(0, kept),
            self.place.index_select(0, kept),
            self.fixed.index_select(0, kept),
            self.owner.index_select(1, kept),
        )

    @property
    def sums(self) -> Tensor:
        """Sum of the states of each text, [B, E]."""
        return self.owner @ self.x


class DenseGraph(nn.Module):
    """The reference side of a task: token ids and mask [B, N] to probabilities [B, C].

    The mask is 1 where a token is real; texts begin at the left.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        assert model.task is not None
        self.encoder, self.head = model.hf.base_model, model.task.head
        self.packing = packing_of(model)
        self.special: Tensor
        self.register_buffer("special", torch.tensor(special_ids(model)), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        rows = self.pack(input_ids, attention_mask)
        for layer in self.packing.layers:
            rows = self.layer(layer, rows)
        return self.answer(rows.sums, attention_mask)

    def pack(self, ids_BN: Tensor, mask_BN: Tensor) -> Rows:
        """The real tokens, embedded."""
        text, position = mask_BN.nonzero().unbind(1)
        place = text * ids_BN.shape[1] + position
        ids = ids_BN.flatten().index_select(0, place)
        fixed = (ids[:, None] == self.special).any(1)
        owner = (torch.arange(ids_BN.shape[0])[:, None] == text).float()
        return Rows(self.packing.embed(ids, position), text, place, fixed, owner)

    def layer(self, layer: PackedLayer, rows: Rows) -> Rows:
        q, k, v = layer.project(rows.x)
        config: Any = layer.attention.config
        mixed = attend(rows, q, k, v, config.num_attention_heads)
        return replace(rows, x=layer.finish(rows.x, mixed))

    def answer(self, sums_BE: Tensor, mask_BN: Tensor) -> Tensor:
        """Probabilities [B, C] from the sum of each text's final states."""
        logits: Tensor = self.head(sums_BE / mask_BN.sum(1)[:, None])
        return logits.softmax(-1)


class SparseGraph(DenseGraph):
    """The side with token gates: as :class:`DenseGraph`, and the share of the token work and the least
    margin of a clear label, float32 [] each, to

    - probabilities [B, C],
    - where the two most probable labels are closer than the margin, bool [B],
    - how many layers computed each token, int64 [B, N]; 0 is padding.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        gates = token_gates(self.packing)
        self.gates = nn.ModuleList([gate for gate in gates if gate is not None])
        self.gated = tuple(gate is not None for gate in gates)
        self.knots: Tensor
        self.register_buffer("knots", torch.tensor(SHARES, dtype=torch.float64), persistent=False)

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, share: Tensor, margin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.pack(input_ids, attention_mask)
        left = rows.x.new_zeros(input_ids.shape[0], rows.x.shape[1])
        rows, places = replace(rows, fixed=rows.fixed | (share >= 1)), []
        shifts, gates = iter(self.shifts(share)), iter(self.gates)
        for gated, layer in zip(self.gated, self.packing.layers, strict=True):
            if gated:
                gate = next(gates)
                assert isinstance(gate, TokenGate)
                keep = (gate.unshifted(rows.x) + next(shifts) > 0) | rows.fixed
                left = left + (rows.owner * (~keep).float()) @ rows.x
                rows = rows.take(keep.nonzero().squeeze(1))
            places.append(rows.place)
            rows = self.layer(layer, rows)
        probabilities = self.answer(left + rows.sums, attention_mask)
        unclear = margins(probabilities) < margin
        place = torch.cat(places)
        computed = torch.zeros_like(input_ids).flatten().index_add(0, place, torch.ones_like(place))
        return probabilities, unclear, computed.view_as(input_ids)

    def shifts(self, share: Tensor) -> Tensor:
        """Each gate's shift at a share; see :meth:`saa_core.gates.token.TokenGate.shift_for`."""
        knots = self.knots
        place = share.double().clamp(SHARES[0], SHARES[-1])
        right = (place > knots[1:-1]).sum()[None] + 1
        start, end = knots.index_select(0, right - 1), knots.index_select(0, right)
        part = ((place - start) / (end - start)).float()
        table = torch.stack([gate.shift for gate in self.gates])  # type: ignore[misc]
        low, high = table.index_select(1, right - 1)[:, 0], table.index_select(1, right)[:, 0]
        return low + part * (high - low)


def attend(rows: Rows, q_AE: Tensor, k_AE: Tensor, v_AE: Tensor, heads: int) -> Tensor:
    """Attention of each text to itself, [A, E]; padded in here to the most tokens of one text."""
    counts = rows.owner.sum(1).to(torch.int64)
    starts = counts.cumsum(0) - counts
    wide = torch.arange(counts.max().item())
    real_BW = wide < counts[:, None]
    source_BW = torch.where(real_BW, starts[:, None] + wide, 0)

    q, k, v = (take(part_AE, source_BW) for part_AE in (q_AE, k_AE, v_AE))
    mixed = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (q, k, v, None, counts.to(torch.int32)),
        {"num_heads": heads},
        dtype=q.dtype,
        shape=q.shape,
        version=1,
    ).flatten(0, 1)
    within = torch.arange(rows.text.shape[0]) - starts.index_select(0, rows.text)
    return take(mixed, rows.text * wide.shape[0] + within)


def take(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table [R, E] at indices of any shape: what an embedding does, since that is one node of a
    graph, and indexing is several."""
    return nn.functional.embedding(index, table)
