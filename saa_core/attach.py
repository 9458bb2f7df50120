"""Puts gates into an existing Hugging Face model and takes them out again.

Gates sit on the attention modules as ``saa_gate``; the attention implementation is switched
through Transformers' registry. No modelling code is forked, and a model called without ``saa=``
computes exactly what it computed before.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from saa_core import attention
from saa_core.errors import ModelError
from saa_core.families import Family, family_of
from saa_core.files import replacing, write_json
from saa_core.gates.files import GATE_FORMAT, read_gates
from saa_core.gates.pair import PairGate
from saa_core.gates.reliability import Reliability
from saa_core.model import Model, Spec
from saa_core.types import Policy


def attach(
    hf: nn.Module,
    tokenizer: Any = None,
    *,
    gates: str | os.PathLike[str] | None = None,
    rank: int = 64,
) -> Model:
    """Adds a gate to every attention layer of a Hugging Face model, in place.

    Args:
        hf: a model of a supported family, with sdpa or eager attention.
        tokenizer: needed to run texts; forward calls with token ids work without.
        gates: folder written by :func:`save_gates`; None makes fresh, untrained gates.
        rank: of fresh gates.

    Raises:
        ModelError: the family or attention implementation is not supported, or gates are attached.
        GateError: the folder is broken or made for another model.
    """
    family = family_of(hf)
    modules = family.attentions(hf)
    config: Any = hf.config
    base = config._attn_implementation
    if any(hasattr(module, "saa_gate") for module in modules):
        raise ModelError("hf already has gates attached; call saa_core.detach(model) first")
    if base not in attention.BASES:
        raise ModelError(
            f"hf uses attn_implementation={base!r}, which SAA cannot take over; load it with one "
            f"of: {', '.join(sorted(attention.BASES))}"
        )
    stored = None if gates is None else read_gates(gates)
    fresh = _fresh(family, modules, rank if stored is None else stored.rank)
    if stored is not None:
        stored.fill(fresh)
    parameter = next(hf.parameters())
    for module, gate in zip(modules, fresh, strict=True):
        module.saa_gate = gate.to(parameter.device)
    attention.register()
    config_owner: Any = hf
    config_owner.set_attn_implementation(attention.PREFIX + base)
    spec = Spec(name=type(hf).__name__, family=family.name)
    if stored is not None:
        spec = replace(
            spec,
            gate=stored.id,
            trained=stored.trained,
            training=stored.about.get("training", {}),
            evaluation=stored.about.get("evaluation", {}),
            policy=Policy(**stored.about.get("policy", {})),
            reliability=stored.reliability,
        )
    return Model(hf=hf, tokenizer=tokenizer, spec=spec)


def _fresh(family: Family, modules: list[nn.Module], rank: int) -> list[PairGate]:
    """Untrained gates, the same ones each time, without touching the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = []
        for layer, module in enumerate(modules):
            config = replace(family.gate_config(module), rank=rank, directed=not family.causal)
            found.append(PairGate(config, layer).requires_grad_(False).eval())
        return found


def detach(model: Model) -> Any:
    """Removes the gates and restores the attention; returns the Hugging Face model as it was."""
    for module in family_of(model.hf).attentions(model.hf):
        if hasattr(module, "saa_gate"):
            del module.saa_gate
    current = model.hf.config._attn_implementation
    if current.startswith(attention.PREFIX):
        model.hf.set_attn_implementation(current.removeprefix(attention.PREFIX))
    return model.hf


def save_gates(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    policy: Policy | None = None,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the gates to a folder: weights as float16 safetensors, everything else as JSON.

    Both files are written beside their place and renamed, the weights first; a reader that finds
    one of each refuses them.

    Args:
        name: id of the gates; the folder's name by default.
        policy: default policy for these gates; the model's by default.
        training: how they were trained (command, data hashes); none means untrained.
        evaluation: what was measured on held-out texts; what is known of the model by default.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    weights = {
        f"layers.{index}.{key}": tensor.detach().cpu().to(torch.float16).contiguous()
        for index, gate in enumerate(model.gates)
        for key, tensor in gate.state_dict().items()
    }
    known = model.gates[0].ood_detector
    if known is not None:
        weights |= {
            f"inputs.{key}": tensor.to(torch.float16).contiguous()
            for key, tensor in (("mean", known.mean), ("whiten", known.whiten))
        }
    with replacing(path / "gates.safetensors") as part:
        save_file(weights, part)
        about = {
            "format": GATE_FORMAT,
            "id": name or path.name,
            "model": model.spec.title,
            "trained": bool(training) or model.spec.trained,
            "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
            "layers": [gate.config.as_dict() for gate in model.gates],
            "calibration": [asdict(gate.calibration) for gate in model.gates],
            "policy": asdict(policy or model.spec.policy),
            "training": dict(training or {}),
            "evaluation": dict(model.spec.evaluation if evaluation is None else evaluation),
            "reliability": [
                found.as_dict() for found in model.spec.reliability if _still_of(model, found)
            ],
        }
        if known is not None:
            about["inputs"] = known.as_dict()
    write_json(path / "gates.json", about)
    return path


def _still_of(model: Model, found: Reliability) -> bool:
    """False where the gates were trained on since, which takes their maps away."""
    return [gate.mass_calibrators.get(found.pairwise) for gate in model.gates] == list(found.maps)
