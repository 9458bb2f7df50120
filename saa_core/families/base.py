"""The shape of a family: where attention sits in its models and how large it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from saa_core.families.packing import Packing
from saa_core.gates.pair import GateConfig


def positions(config: Any) -> int:
    """Longest text in tokens: the number of positions in the configuration."""
    return int(config.max_position_embeddings)


def ungrouped_heads(attention: nn.Module) -> GateConfig:
    """As many key heads as query heads, which share the hidden size."""
    config: Any = attention.config
    heads = config.num_attention_heads
    return GateConfig(heads=heads, key_heads=heads, head_size=config.hidden_size // heads)


@dataclass(frozen=True)
class Family:
    """One model family.

    Args:
        name: key in FAMILIES.
        model_types: values of ``config.model_type`` that belong to it.
        attentions: the attention modules of a model, in layer order.
        gate_config: shape of the gate of one attention module.
        causal: a query sees no later key; such models write text, the others are encoders.
        max_length: longest text in tokens, from the model's configuration.
        pack: how its layers run on packed tokens, so that whole tokens can be dropped; None where
            that is not possible.
    """

    name: str
    model_types: tuple[str, ...]
    attentions: Callable[[nn.Module], list[nn.Module]]
    gate_config: Callable[[nn.Module], GateConfig]
    causal: bool
    max_length: Callable[[Any], int] = positions
    pack: Callable[[nn.Module], Packing] | None = None
