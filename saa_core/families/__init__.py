"""What differs per model family: one file each, one line each in FAMILIES."""

from typing import Any

from torch import nn

from saa_core.errors import ModelError
from saa_core.families import bert, generic, gpt2, llama, modernbert
from saa_core.families.base import Family
from saa_core.families.generic import is_cross_attention

__all__ = ["FAMILIES", "Family", "family_named", "family_of", "is_cross_attention"]

FAMILIES: dict[str, Family] = {
    "bert": bert.FAMILY,
    "gpt2": gpt2.FAMILY,
    "llama": llama.FAMILY,
    "modernbert": modernbert.FAMILY,
    "decoder": generic.DECODER,
    "encoder": generic.ENCODER,
}


def family_of(hf: nn.Module) -> Family:
    """The family of a Hugging Face model: its own, or the generic one of decoders or encoders.

    Raises:
        ModelError: the architecture is not supported; says why, and lists those that are.
    """
    config: Any = getattr(hf, "config", None)
    model_type = getattr(config, "model_type", None)
    own = _own(model_type)
    if own is not None:
        return own
    found = None if config is None else generic.generic_of(hf)
    if found is None:
        raise _unsupported(model_type, f"hf={type(hf).__name__}")
    return found


def family_named(model_type: str | None, given: str) -> Family:
    """The family of a model type; ``given`` is what the error calls the argument.

    Raises:
        ModelError: the architecture is not supported; says why, and lists those that are.
    """
    found = _own(model_type) or (None if model_type is None else generic.generic_named(model_type))
    if found is None:
        raise _unsupported(model_type, given)
    return found


def _own(model_type: str | None) -> Family | None:
    return next((each for each in FAMILIES.values() if model_type in each.model_types), None)


def _unsupported(model_type: str | None, given: str) -> ModelError:
    listed = sorted(name for family in FAMILIES.values() for name in family.model_types)
    return ModelError(
        f"{given} (model_type {model_type!r}) is not supported: its attention does not go through "
        f"{generic.REGISTRY} of Transformers. Supported model types: {', '.join(listed)}, and every "
        "language model of Transformers whose attention does"
    )
