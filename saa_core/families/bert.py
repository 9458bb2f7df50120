"""Encoders of the BERT shape: BERT, MiniLM, RoBERTa, XLM-RoBERTa, DistilBERT. Both directions."""

from typing import Any

from torch import Tensor, nn

from saa_core.families.base import Family, ungrouped_heads
from saa_core.families.packing import PackedLayer, Packing


def _attentions(hf: nn.Module) -> list[nn.Module]:
    encoder: Any = hf.base_model
    if hasattr(encoder, "transformer"):  # DistilBERT
        return [layer.attention for layer in encoder.transformer.layer]
    return [layer.attention.self for layer in encoder.encoder.layer]


def _first_position(config: Any) -> int:
    """RoBERTa counts positions from behind the padding token's."""
    return config.pad_token_id + 1 if "roberta" in config.model_type else 0


def _max_length(config: Any) -> int:
    return int(config.max_position_embeddings) - _first_position(config)


def _pack(hf: nn.Module) -> Packing:
    encoder: Any = hf.base_model
    first = _first_position(encoder.config)

    def embed(ids_T: Tensor, positions_T: Tensor) -> Tensor:
        embedded: Tensor = encoder.embeddings(ids_T[None], position_ids=positions_T[None] + first)
        return embedded[0]

    if hasattr(encoder, "transformer"):
        return Packing(embed, tuple(_distil_layer(layer) for layer in encoder.transformer.layer))
    return Packing(embed, tuple(_bert_layer(layer) for layer in encoder.encoder.layer))


def _bert_layer(layer: Any) -> PackedLayer:
    own = layer.attention.self

    def project(x_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return own.query(x_TE), own.key(x_TE), own.value(x_TE)

    def finish(x_TE: Tensor, mixed_TE: Tensor) -> Tensor:
        attended = layer.attention.output(mixed_TE, x_TE)
        done: Tensor = layer.output(layer.intermediate(attended), attended)
        return done

    return PackedLayer(layer, own, project, finish)


def _distil_layer(layer: Any) -> PackedLayer:
    own = layer.attention

    def project(x_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return own.q_lin(x_TE), own.k_lin(x_TE), own.v_lin(x_TE)

    def finish(x_TE: Tensor, mixed_TE: Tensor) -> Tensor:
        attended = layer.sa_layer_norm(own.out_lin(mixed_TE) + x_TE)
        done: Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
        return done

    return PackedLayer(layer, own, project, finish)


FAMILY = Family(
    name="bert",
    model_types=("bert", "roberta", "xlm-roberta", "distilbert"),
    attentions=_attentions,
    gate_config=ungrouped_heads,
    causal=False,
    max_length=_max_length,
    pack=_pack,
)
