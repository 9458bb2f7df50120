"""Encoders of the BERT shape: BERT, MiniLM, RoBERTa, XLM-RoBERTa, DistilBERT. Both directions."""

from typing import Any

from torch import nn

from saa_core.families.base import Family
from saa_core.gates import GateConfig


def _attentions(hf: nn.Module) -> list[nn.Module]:
    encoder: Any = hf.base_model
    if hasattr(encoder, "transformer"):  # DistilBERT
        return [layer.attention for layer in encoder.transformer.layer]
    return [layer.attention.self for layer in encoder.encoder.layer]


def _gate_config(attention: nn.Module) -> GateConfig:
    config: Any = attention.config
    heads = config.num_attention_heads
    return GateConfig(heads=heads, key_heads=heads, head_size=config.hidden_size // heads)


def _max_length(config: Any) -> int:
    # RoBERTa counts positions from behind the padding token's.
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return int(config.max_position_embeddings) - offset


FAMILY = Family(
    name="bert",
    model_types=("bert", "roberta", "xlm-roberta", "distilbert"),
    attentions=_attentions,
    gate_config=_gate_config,
    causal=False,
    max_length=_max_length,
)
