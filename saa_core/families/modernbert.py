"""ModernBERT: an encoder with RoPE whose layers alternate between global and sliding attention.

In the sliding layers only the pairs inside the window are allowed, so densities count those.
"""

from typing import Any

from torch import nn

from saa_core.families.base import Family, ungrouped_heads


def _attentions(hf: nn.Module) -> list[nn.Module]:
    encoder: Any = hf.base_model
    return [layer.attn for layer in encoder.layers]


FAMILY = Family(
    name="modernbert",
    model_types=("modernbert",),
    attentions=_attentions,
    gate_config=ungrouped_heads,
    causal=False,
)
