"""Low-rank adapters (LoRA, arXiv 2106.09685) in a model, in PEFT's format: add, take, fill, write.

PEFT is imported where it is used: that takes a second.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saa_core.errors import GateError
from saa_core.files import replacing, write_json

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""In front of every weight's name in PEFT's files."""


def add(
    hf: Any, name: str, targets: Sequence[str], rank: int, *, seed: int, exclude: str | None = None
) -> None:
    """Adds a fresh adapter, the same one for a seed; its scale is 2, and at first it changes nothing.

    Args:
        targets: last names of the linear layers that get one.
        exclude: pattern of full names that get none.
    """
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=list(targets), exclude_modules=exclude
        )
        hf.add_adapter(settings, adapter_name=name)


def weights(hf: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name, in float32 and with gradients; PEFT follows the weights' type."""
    found = {full: p for full, p in hf.named_parameters() if f".{name}." in full}
    for parameter in found.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return found


def matrices(hf: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The weights beside which the adapter stands, by name."""
    return {full: module.get_base_layer().weight for full, module in _layers(hf, name).items()}


def take(hf: nn.Module, name: str, before: Mapping[str, Tensor]) -> None:
    """Puts what the weights have learned into the adapter, cut to its rank, and the weights back.

    Of all changes of that rank it is the nearest one (Eckart and Young 1936). What is cut off is lost.

    Args:
        before: the weights before learning, by the names of :func:`matrices`.
    """
    for full, layer in _layers(hf, name).items():
        weight, scale = layer.get_base_layer().weight, layer.scaling[name]
        rank = min(layer.r[name], *weight.shape)
        with torch.no_grad():
            change = weight.float() - before[full].float()
            left, size, right = torch.linalg.svd(change, full_matrices=False)
            root = (size[:rank] / scale).sqrt()
            layer.lora_B[name].weight[:, :rank] = left[:, :rank] * root
            layer.lora_A[name].weight[:rank] = root[:, None] * right[:rank]
        weight.data = before[full]


def fold(hf: nn.Module, name: str) -> nn.Module:
    """A copy in float32 with the adapter added to the matrices: one product instead of three."""
    copied = copy.deepcopy(hf).float().requires_grad_(False)
    for layer in _layers(copied, name).values():
        layer.merge(adapter_names=[name])
    return copied


def _layers(hf: nn.Module, name: str) -> dict[str, Any]:
    """PEFT's layers that have the adapter, by name."""
    from peft.tuners.lora import LoraLayer

    found = {full: m for full, m in hf.named_modules() if isinstance(m, LoraLayer)}
    return {full: module for full, module in found.items() if name in module.lora_A}


def fill(hf: Any, name: str, folder: Path, argument: str) -> None:
    """Puts the weights of a folder into an adapter that was added.

    Raises:
        GateError: naming ``argument``; there is no adapter, or one of another shape.
    """
    from peft import set_peft_model_state_dict

    try:
        state = {k.removeprefix(PREFIX): v for k, v in load_file(folder / FILE).items()}
        found: Any = set_peft_model_state_dict(hf, state, adapter_name=name)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise GateError(f"{argument}={str(folder)!r} does not fit: {error}") from error
    missing = [key for key in found.missing_keys if f".{name}." in key]
    if found.unexpected_keys or missing:
        wrong = found.unexpected_keys[0] if found.unexpected_keys else f"no {missing[0]}"
        raise GateError(f"{argument}={str(folder)!r} was made for another model: it holds {wrong}")


def write(hf: Any, name: str, folder: Path, base: str) -> None:
    """Writes an adapter as float16; each file is written beside its place and renamed.

    Args:
        base: name of the model that it belongs to.
    """
    from peft.utils import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"{PREFIX}{key}": tensor.detach().cpu().to(torch.float16).contiguous()
        for key, tensor in get_peft_model_state_dict(hf, adapter_name=name).items()
    }
    with replacing(folder / FILE) as part:
        save_file(state, part)
    settings = hf.peft_config[name].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in settings.items()}
    plain |= {"base_model_name_or_path": base, "inference_mode": True}
    plain = {k: v for k, v in plain.items() if isinstance(v, (str, int, float, list, bool))}
    write_json(folder / "adapter_config.json", plain)
