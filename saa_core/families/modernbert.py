"""ModernBERT: an encoder with RoPE whose layers alternate between global and sliding attention.

In the sliding layers only the pairs inside the window are allowed, so densities count those.
"""

from typing import Any

from torch import nn

from saa_core.families.base import Family
from saa_core.gates import GateConfig


def _attentions(hf: nn.Module) -> list[nn.Module]:
    encoder: Any = hf.base_model
    return [layer.attn for layer in encoder.layers]


def _gate_config(attention: nn.Module) -> GateConfig:
    config: Any = attention.config
    heads = config.num_attention_heads
    return GateConfig(heads=heads, key_heads=heads, head_size=int(attention.head_dim))  # type: ignore[arg-type]


FAMILY = Family(
    name="modernbert",
    model_types=("modernbert",),
    attentions=_attentions,
    gate_config=_gate_config,
    causal=False,
)
