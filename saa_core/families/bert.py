"""Encoders of the BERT shape: BERT, MiniLM, RoBERTa, XLM-RoBERTa, DistilBERT. Both directions."""

from typing import Any

from torch import nn

from saa_core.families.base import Family, ungrouped_heads


def _attentions(hf: nn.Module) -> list[nn.Module]:
    encoder: Any = hf.base_model
    if hasattr(encoder, "transformer"):  # DistilBERT
        return [layer.attention for layer in encoder.transformer.layer]
    return [layer.attention.self for layer in encoder.encoder.layer]


def _max_length(config: Any) -> int:
    # RoBERTa counts positions from behind the padding token's.
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return int(config.max_position_embeddings) - offset


FAMILY = Family(
    name="bert",
    model_types=("bert", "roberta", "xlm-roberta", "distilbert"),
    attentions=_attentions,
    gate_config=ungrouped_heads,
    causal=False,
    max_length=_max_length,
)
