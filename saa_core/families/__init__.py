"""What differs per model family: one file each, one line each in FAMILIES."""

from torch import nn

from saa_core.errors import ModelError
from saa_core.families import llama
from saa_core.families.base import Family

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: dict[str, Family] = {"llama": llama.FAMILY}


def family_of(hf: nn.Module) -> Family:
    """The family of a Hugging Face model.

    Raises:
        ModelError: the architecture is not supported; lists those that are.
    """
    model_type = getattr(getattr(hf, "config", None), "model_type", None)
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    supported = sorted(name for family in FAMILIES.values() for name in family.model_types)
    raise ModelError(
        f"hf={type(hf).__name__} (model_type {model_type!r}) is not supported; "
        f"supported model types: {', '.join(supported)}"
    )
