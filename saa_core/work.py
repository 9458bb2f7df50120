"""How many floating-point operations an encoder does. Counted from shapes, not measured.

A multiplication and an addition count as two. Norms, activations and embeddings are left out on both
sides; they grow with the tokens too, so the shares hardly change.
"""

from collections.abc import Sequence

from torch import nn

from saa_core.attach import Model
from saa_core.packed import packing_of, token_gates


def encoder_flops(model: Model, needed: Sequence[int], *, gates: bool = True) -> int:
    """Operations of all layers for one text.

    Args:
        needed: tokens that each layer computes.
        gates: count the token gates, each of which scores the tokens of the layer before. What
            pair gates cost and what single dropped pairs save is not counted.
    """
    packing = packing_of(model)
    total = 0
    before = needed[0]
    for layer, gate, tokens in zip(packing.layers, token_gates(packing), needed, strict=True):
        linear = sum(
            module.weight.numel()
            for name, module in layer.module.named_modules()
            if isinstance(module, nn.Linear) and not ("saa_" in name or ".lora_" in name)
        )
        hidden = int(model.hf.config.hidden_size)
        total += 2 * linear * tokens + 4 * hidden * tokens * tokens
        if gates and gate is not None:
            total += gate.flops_per_token * before
        before = tokens
    return total
