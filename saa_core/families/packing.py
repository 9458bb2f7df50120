"""How an encoder's own layers compute on tokens that stand behind each other without padding.

Linear layers and norms do not care which text a token belongs to; only attention does. A family that
can be packed says how its modules are called around the attention.

Shapes: T tokens of all texts, E hidden size, H heads, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class PackedLayer:
    """One layer of a model, around its attention.

    Args:
        module: the layer; its token gate sits on it as ``saa_token_gate``.
        attention: its attention module; its pair gate sits on it as ``saa_gate``.
        project: hidden states [T, E] to queries, keys and values [T, H D] each.
        finish: (hidden states, mixed values), [T, E] each, to the layer's output [T, E].
    """

    module: nn.Module
    attention: nn.Module
    project: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    finish: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Packing:
    """A model that can be packed.

    Args:
        embed: (token ids [T], positions in their text from 0 [T]) to hidden states [T, E].
        layers: in order.
    """

    embed: Callable[[Tensor, Tensor], Tensor]
    layers: tuple[PackedLayer, ...]
