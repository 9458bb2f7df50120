"""Activations of a model's layers are computed again on the way back, not held: memory for time.

Transformers' own gradient checkpointing, without putting the model into training mode: dropout stays off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from saa_core.errors import ModelError


@contextmanager
def recomputed(hf: Any) -> Iterator[None]:
    """While it lasts each layer holds its input alone.

    Raises:
        ModelError: the model's layers cannot.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in hf.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or not hf.supports_gradient_checkpointing:
        raise ModelError(
            f"recompute: {type(hf).__name__} has no layers that can be computed again; leave it out"
        )
    hf.gradient_checkpointing_enable({"use_reentrant": False})
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = (
            True  # of the layer alone, which asks for it; what is inside does not learn of it
        )
    try:
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.training = mode
        hf.gradient_checkpointing_disable()


def held() -> torch.autograd.graph.saved_tensors_hooks:
    """What is computed here is held as usual, also inside a layer that is computed again: for a loss of its own,
    whose gradients are taken at once."""
    return torch.autograd.graph.saved_tensors_hooks(_same, _same)


def _same(x: Tensor) -> Tensor:
    return x
