"""Gates as files: weights, and everything that is known about them."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from saa_core.files import replacing, write_json
from saa_core.gates.files import GATE_FORMAT
from saa_core.gates.reliability import Reliability
from saa_core.model import Model
from saa_core.types import Policy


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
        if model.gates[0].defaults is not None:
            about["defaults"] = model.gates[0].defaults.as_dict()
        if known is not None:
            about["inputs"] = known.as_dict()
    write_json(path / "gates.json", about)
    return path


def _still_of(model: Model, found: Reliability) -> bool:
    """False where the gates were trained on since, which takes their maps away."""
    return [gate.mass_calibrators.get(found.pairwise) for gate in model.gates] == list(found.maps)
