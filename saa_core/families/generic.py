"""Whatever hands its attention to Transformers' registry: found by its modules, decoders and encoders.

A module belongs to a model's attention if its forward names ``ALL_ATTENTION_FUNCTIONS``. Attention to
another model's states (cross-attention) stays dense. What such a model does around its attention makes
no difference: rotary or learned positions, experts, norms, layers without any attention.
"""

import inspect
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from torch import nn

from saa_core.errors import ModelError
from saa_core.families.base import Family
from saa_core.gates.pair import GateConfig

REGISTRY = "ALL_ATTENTION_FUNCTIONS"
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
BEHIND_PADDING = "create_position_ids_from_input_ids"
"""A method of embeddings that count positions from behind the padding token's."""
UNLIMITED = 1 << 20
"""Tokens that a model may be given whose configuration names no limit."""


def attentions(hf: nn.Module) -> list[nn.Module]:
    """Modules that attend to their own model's tokens through the registry, in order."""
    return [
        module
        for module in hf.modules()
        if _asks_registry(type(module).forward) and not is_cross_attention(module)
    ]


def is_cross_attention(module: nn.Module) -> bool:
    """True for attention to another model's states."""
    return bool(getattr(module, "is_cross_attention", False)) or (
        "CrossAttention" in type(module).__name__
    )


@cache
def _asks_registry(forward: Callable[..., Any]) -> bool:
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return code is not None and REGISTRY in code.co_names


def gate_config(attention: nn.Module) -> GateConfig:
    """Heads as the module, or else its configuration, names them."""
    module: Any = attention
    config: Any = attention.config
    heads = int(_first(module, "num_heads", "num_attention_heads") or config.num_attention_heads)
    size = int(
        _first(module, "qk_head_dim", "head_dim", "attention_head_size")
        or _first(config, "head_dim")
        or config.hidden_size // heads
    )
    key: Any = getattr(module, "k_proj", None)
    if hasattr(key, "out_features"):
        key_heads = key.out_features // size
    else:
        key_heads = heads // int(_first(module, "num_key_value_groups") or 1)
    return GateConfig(heads=heads, key_heads=int(key_heads), head_size=size)


def _first(holder: Any, *names: str) -> Any:
    """The first of some attributes that is there and not None."""
    found = (getattr(holder, name, None) for name in names)
    return next((value for value in found if value is not None), None)


def max_length(config: Any) -> int:
    """As many tokens as the configuration names positions, less those in front of the first one."""
    named = _first(config, *POSITIONS)
    if named is None:
        return UNLIMITED
    modelling = _modelling(config.model_type)
    kinds = [] if modelling is None else list(vars(modelling).values())
    behind_padding = any(hasattr(kind, BEHIND_PADDING) for kind in kinds)
    return int(named) - (config.pad_token_id + 1 if behind_padding else 0)


@cache
def _modelling(model_type: str) -> ModuleType | None:
    """The modelling file of a model type; None where Transformers has none."""
    # Here, as below: the tables take longer to import than everything else that attaching needs.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if model_type not in CONFIG_MAPPING:
        return None
    found: Any = MODEL_MAPPING.get(CONFIG_MAPPING[model_type], None)
    found = found[0] if isinstance(found, tuple) else found
    return None if found is None else sys.modules[found.__module__]


DECODER = Family("decoder", (), attentions, gate_config, causal=True, max_length=max_length)
ENCODER = Family("encoder", (), attentions, gate_config, causal=False, max_length=max_length)


def generic_named(model_type: str) -> Family | None:
    """The generic family of a model type of Transformers; None if it is not of one."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    masked = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not masked and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    if not hasattr(_modelling(model_type), REGISTRY):
        return None
    return ENCODER if masked else DECODER


def generic_of(hf: nn.Module) -> Family | None:
    """The generic family of a model; None where it has no attention that goes through the registry.

    Raises:
        ModelError: it holds several models: an encoder and a decoder, or one for pictures.
    """
    config: Any = hf.config
    found = attentions(hf)
    if not found:
        return None
    name = f"hf={type(hf).__name__} (model_type {config.model_type!r})"
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder and a decoder in one, which SAA does not support")
    configs: dict[int, Any] = {id(module.config): module.config for module in found}
    if len(configs) > 1:
        types = sorted({str(getattr(each, "model_type", "")) for each in configs.values()})
        raise ModelError(
            f"{name} holds several models ({', '.join(types)}); attach to the one that reads text, "
            "which is a module of it"
        )
    causal = all(bool(getattr(module, "is_causal", True)) for module in found)
    return DECODER if causal else ENCODER
