"""GPT-2: causal, learned positions, as many key heads as query heads."""

from typing import Any

from torch import nn

from saa_core.families.base import Family, ungrouped_heads


def _attentions(hf: nn.Module) -> list[nn.Module]:
    decoder: Any = hf.base_model
    return [layer.attn for layer in decoder.h]


FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    attentions=_attentions,
    gate_config=ungrouped_heads,
    causal=True,
)
