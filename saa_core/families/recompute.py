"""Activations of a model's layers are computed again on the way back, not held: memory for time.

Transformers' layers know how (gradient checkpointing), but only in training mode, which would let dropout in: so
the layers alone are put into it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from saa_core.errors import ModelError


@contextmanager
def recomputed(hf: Any) -> Iterator[None]:
    """While it lasts each layer holds its input alone.

    Raises:
        ModelError: the model's layers cannot.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [m for m in hf.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"recompute: {type(hf).__name__} has no layers that can be computed again; leave it out"
        )
    before = [(layer.gradient_checkpointing, layer.training) for layer in layers]
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        # Training mode of the layer alone, which asks for it; what is inside does not learn of it.
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer, (again, training) in zip(layers, before, strict=True):
            layer.gradient_checkpointing, layer.training = again, training


def held() -> torch.autograd.graph.saved_tensors_hooks:
    """What is computed here is held as usual, also inside a layer that is computed again: for a loss of its own,
    whose gradients are taken at once."""
    return torch.autograd.graph.saved_tensors_hooks(_same, _same)


def _same(x: Tensor) -> Tensor:
    return x
