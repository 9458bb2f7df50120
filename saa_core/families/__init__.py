"""What differs per model family: one file each, one line each in FAMILIES."""

from torch import nn

from saa_core.errors import ModelError
from saa_core.families import bert, gpt2, llama, modernbert
from saa_core.families.base import Family

__all__ = ["FAMILIES", "Family", "family_named", "family_of"]

FAMILIES: dict[str, Family] = {
    "bert": bert.FAMILY,
    "gpt2": gpt2.FAMILY,
    "llama": llama.FAMILY,
    "modernbert": modernbert.FAMILY,
}


def family_of(hf: nn.Module) -> Family:
    """The family of a Hugging Face model.

    Raises:
        ModelError: the architecture is not supported; lists those that are.
    """
    model_type = getattr(getattr(hf, "config", None), "model_type", None)
    return family_named(model_type, f"hf={type(hf).__name__}")


def family_named(model_type: str | None, given: str) -> Family:
    """The family of a model type; ``given`` is what the error calls the argument.

    Raises:
        ModelError: the architecture is not supported; lists those that are.
    """
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    supported = sorted(name for family in FAMILIES.values() for name in family.model_types)
    raise ModelError(
        f"{given} (model_type {model_type!r}) is not supported; "
        f"supported model types: {', '.join(supported)}"
    )
