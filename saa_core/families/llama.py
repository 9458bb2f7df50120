"""Models of the Llama shape: Llama, SmolLM2, Mistral, Qwen2, Qwen3. Causal, grouped heads, RoPE."""

from typing import Any

from torch import nn

from saa_core.families.base import Family
from saa_core.gates.pair import GateConfig


def _attentions(hf: nn.Module) -> list[nn.Module]:
    decoder: Any = hf.base_model
    return [layer.self_attn for layer in decoder.layers]


def _gate_config(attention: nn.Module) -> GateConfig:
    config: Any = attention.config
    return GateConfig(
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=int(attention.head_dim),  # type: ignore[arg-type]
    )


FAMILY = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    attentions=_attentions,
    gate_config=_gate_config,
    causal=True,
)
