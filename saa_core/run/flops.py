"""How many floating-point operations an encoder does. Counted from shapes, not measured.

A multiplication and an addition count as two. Norms, activations and embeddings are left out on both
sides; they grow with the tokens too, so the shares hardly change.

Shapes: B texts, L layers.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saa_core.model import Model
from saa_core.run.varlen import packing_of, token_gates

_counted: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def encoder_flops(model: Model, needed: Tensor | Sequence[int], *, gates: bool = True) -> Tensor:
    """Operations of all layers, int64 [B], or one number for one text.

    Args:
        needed: tokens that each layer computes, [B, L] or [L].
        gates: count the token gates, each of which scores the tokens of the layer before. What
            pair gates cost and what single dropped pairs save is not counted.
    """
    packing = packing_of(model)
    hidden = int(model.hf.config.hidden_size)
    tokens = torch.as_tensor(needed)
    weights = [layer_weights(layer.module) for layer in packing.layers]
    total = (2 * tokens.new_tensor(weights) + 4 * hidden * tokens) * tokens
    if gates:
        costs = [0 if gate is None else gate.flops_per_token for gate in token_gates(packing)]
        before = torch.cat([tokens[..., :1], tokens[..., :-1]], -1)
        total = total + tokens.new_tensor(costs) * before
    return total.sum(-1)


def layer_weights(layer: nn.Module) -> int:
    """Numbers in the model's own matrices; counted once, since a text alone would wait for it."""
    if layer not in _counted:
        _counted[layer] = sum(
            module.weight.numel()
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and not ("saa_" in name or ".lora_" in name)
        )
    return _counted[layer]


def flops_against_dense(model: Model, needed: Tensor, *, gates: bool) -> tuple[Tensor, Tensor]:
    """Operations that were done and those of dense, per text, int64 [B] each.

    Args:
        needed: tokens that each layer computed, int64 [B, L]; all of a text in the first layer.
    """
    done = encoder_flops(model, needed, gates=gates)
    return done, encoder_flops(model, needed[:, :1].expand_as(needed), gates=False)
