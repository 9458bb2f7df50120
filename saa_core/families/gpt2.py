"""GPT-2: causal, learned positions, as many key heads as query heads."""

from typing import Any

from torch import nn

from saa_core.families.base import Family
from saa_core.gates import GateConfig


def _attentions(hf: nn.Module) -> list[nn.Module]:
    decoder: Any = hf.base_model
    return [layer.attn for layer in decoder.h]


def _gate_config(attention: nn.Module) -> GateConfig:
    config: Any = attention.config
    heads = config.num_attention_heads
    return GateConfig(heads=heads, key_heads=heads, head_size=config.hidden_size // heads)


FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    attentions=_attentions,
    gate_config=_gate_config,
    causal=True,
)
