"""Puts gates into an existing Hugging Face model and takes them out again.

Gates sit on the attention modules as ``saa_gate``; the attention implementation is switched
through Transformers' registry. No modelling code is forked, and a model called without ``saa=``
computes exactly what it computed before.
"""

import os
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from saa_core.attach.generation import leave_generation, take_generation
from saa_core.attach.probe import probe_model
from saa_core.attention import seam
from saa_core.attention.seam import Name
from saa_core.errors import ModelError
from saa_core.families import Family, family_of
from saa_core.gates.files import read_gates
from saa_core.gates.pair import PairGate
from saa_core.model import Model, Spec
from saa_core.types import Policy


def attach(
    hf: nn.Module,
    tokenizer: Any = None,
    *,
    gates: str | os.PathLike[str] | None = None,
    rank: int = 64,
    probe: bool = True,
) -> Model:
    """Adds a gate to every attention layer of a Hugging Face model, in place.

    Args:
        hf: a model whose attention goes through Transformers' registry, with sdpa or eager attention.
        tokenizer: needed to run texts; forward calls with token ids work without.
        gates: folder written by :func:`save_gates`; None makes fresh, untrained gates.
        rank: of fresh gates.
        probe: runs 2 x 8 tokens through the model once, to see that keeping everything is what it
            computes itself. Left out where weights are not in memory (offloaded ones).

    Raises:
        ModelError: the family or attention implementation is not supported, gates are attached, or the
            probe found a difference. The model is then as it was.
        GateError: the folder is broken or made for another model.
    """
    _refuse_wrapped(hf)
    family = family_of(hf)
    modules = family.attentions(hf)
    config: Any = hf.config
    base = config._attn_implementation
    if isinstance(base, Name) or any(hasattr(module, "saa_gate") for module in modules):
        raise ModelError(
            "hf already has gates attached, or shares its configuration with a model that has; call "
            "saa_core.detach(model) first"
        )
    if base not in seam.BASES:
        raise ModelError(
            f"hf uses attn_implementation={base!r}, which SAA cannot take over; load it with one "
            f"of: {', '.join(sorted(seam.BASES))}"
        )
    devices = [_device_of(module) for module in modules]
    stored = None if gates is None else read_gates(gates)
    fresh = _fresh(family, modules, rank if stored is None else stored.rank)
    if stored is not None:
        stored.fill(fresh)
    for module, gate, device in zip(modules, fresh, devices, strict=True):
        module.saa_gate = gate.to(device)
        if getattr(module, "reorder_and_upcast_attn", False):
            # GPT-2 then goes past the registry; its way is kept in attention/seam.py.
            module.saa_upcast, module.reorder_and_upcast_attn = True, False  # type: ignore[assignment]
    for own in _configs(hf, base):
        own._attn_implementation = Name(seam.PREFIX + base)
    _watch(hf)
    take_generation(hf)
    spec = Spec(name=type(hf).__name__, family=family.name)
    if stored is not None:
        spec = replace(
            spec,
            gate=stored.id,
            trained=stored.trained,
            training=stored.about.get("training", {}),
            evaluation=stored.about.get("evaluation", {}),
            policy=Policy.stored(stored.about.get("policy", {})),
            reliability=stored.reliability,
        )
    model = Model(hf=hf, tokenizer=tokenizer, spec=spec)
    if probe and not any(parameter.is_meta for parameter in hf.parameters()):
        try:
            probe_model(hf, family)
        except BaseException:
            detach(model)
            raise
    return model


def detach(model: Model) -> Any:
    """Removes the gates and restores the attention; returns the Hugging Face model as it was.

    What stays is a check: called with ``saa=``, the model says that it has no gates.
    """
    for module in family_of(model.hf).attentions(model.hf):
        if hasattr(module, "saa_gate"):
            del module.saa_gate
        if hasattr(module, "saa_upcast"):
            del module.saa_upcast
            module.reorder_and_upcast_attn = True  # type: ignore[assignment]
    for config in _configs(model.hf, None):
        config._attn_implementation = config._attn_implementation.base
    leave_generation(model.hf)
    return model.hf


def _refuse_wrapped(hf: Any) -> None:
    """Raises ModelError for a model inside another library's wrapper."""
    if hasattr(hf, "peft_config") and hasattr(hf, "get_base_model"):
        raise ModelError(
            f"hf is a {type(hf).__name__}; merge its adapter first: "
            "saa_core.attach(hf.merge_and_unload())"
        )
    if not isinstance(hf, nn.Module) or not hasattr(hf, "config"):
        raise ModelError(f"hf is a {type(hf).__name__}; give a model of Transformers")


def _configs(hf: nn.Module, base: str | None) -> list[Any]:
    """Configurations of a model and its parts that have this attention; None: that have SAA's."""
    found = {
        id(module.config): module.config for module in hf.modules() if hasattr(module, "config")
    }
    names = ((each, getattr(each, "_attn_implementation", None)) for each in found.values())
    if base is None:
        return [each for each, name in names if isinstance(name, Name)]
    return [each for each, name in names if name == base]


def _device_of(module: nn.Module) -> torch.device:
    """Where a layer computes: where its weights are, or will be brought to.

    Raises:
        ModelError: they are nowhere.
    """
    devices = [parameter.device for parameter in module.parameters() if not parameter.is_meta]
    if devices:
        return devices[0]
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    for hook in hooks:
        device = getattr(hook, "execution_device", None)
        if device is not None:
            return torch.device(device)
    raise ModelError("hf has no weights (its parameters are on the meta device); load them first")


def _fresh(family: Family, modules: list[nn.Module], rank: int) -> list[PairGate]:
    """Untrained gates, the same ones each time, without touching the caller's random numbers."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for layer, module in enumerate(modules):
        config = replace(family.gate_config(module), rank=rank, directed=not family.causal)
        gate = PairGate(config, layer, len(modules), draw)
        found.append(gate.requires_grad_(False).eval())
    return found


def _watch(hf: nn.Module) -> None:
    """Lets the model refuse a call that none of its attention layers will meet."""
    for module in {id(each): each for each in (hf, hf.base_model)}.values():
        if _refuse_unmet not in module._forward_hooks.values():  # type: ignore[union-attr]
            module.register_forward_pre_hook(_begin, with_kwargs=True)  # type: ignore[union-attr]
            module.register_forward_hook(_refuse_unmet, with_kwargs=True)  # type: ignore[union-attr]


def _begin(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    call = kwargs.get("saa")
    if call is not None:
        seam.check_call(call)
        call.met.clear()


def _refuse_unmet(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    call = kwargs.get("saa")
    if call is not None and not call.met:
        name, kind = module.config._attn_implementation, type(module).__name__
        if isinstance(name, Name):
            raise ModelError(
                f"saa=: {kind} hands no further arguments to its attention, so that no policy reaches it; "
                "its model type is not supported"
            )
        raise ModelError(
            f"saa=: no attention layer met the call, so what came out is dense: {kind} has "
            f"attn_implementation={name!r}, and no gates are at work (it was detached, or the "
            "implementation set anew); call saa_core.attach(hf), or leave saa= out"
        )
