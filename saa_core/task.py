"""A classification task on top of an encoder: labels, head, token gates, and the folder they lie in.

A folder holds two low-rank adapters in PEFT's format: ``dense`` (fine-tuned for the task, drops nothing;
what everything is compared with) and ``sparse`` (trained on with the gates), a head for each, the
gates, and task.json. Knows files and modules; knows nothing about texts or training.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saa_core.errors import GateError
from saa_core.families.packing import Packing
from saa_core.files import replacing, write_json
from saa_core.token_gates import TokenGate, TokenGateConfig
from saa_core.types import Policy

TASK_FORMAT = 1
SIDES = ("dense", "sparse")


@dataclass(frozen=True)
class Task:
    """What a model was fine-tuned to tell apart.

    Args:
        name: of the task.
        labels: in the order of the head's outputs.
        head: mean of the final states [B, E] to logits [B, C].
        policy: the default, chosen on validation data.
        training, evaluation: as stored with the task.
    """

    name: str
    labels: tuple[str, ...]
    head: nn.Linear
    policy: Policy = field(default_factory=lambda: Policy(mass=1.0))
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def probabilities(self, means_BE: Tensor) -> Tensor:
        """[B, C] from the mean final state of each text."""
        weight = self.head.weight
        with torch.inference_mode():
            logits: Tensor = self.head(means_BE.to(weight.device, weight.dtype))
            return logits.float().softmax(-1)


def add_token_gates(packing: Packing, hidden: int, width: int = 32) -> list[TokenGate]:
    """Puts a fresh gate in front of every layer but the first; the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gates = []
        for index, layer in enumerate(packing.layers[1:], 1):
            gate = TokenGate(TokenGateConfig(hidden, width), index)
            device = next(layer.module.parameters()).device
            layer.module.saa_token_gate = gate.requires_grad_(False).eval().to(device)
            gates.append(gate)
    return gates


def read_task(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The description of a task folder, checked.

    Raises:
        GateError: the folder is no task folder, broken, or of another format.
    """
    path = Path(folder)
    try:
        about: dict[str, Any] = json.loads((path / "task.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GateError(f"task={str(folder)!r} is not a task folder: {error}") from error
    if about.get("format") != TASK_FORMAT:
        raise GateError(
            f"task={str(folder)!r} has format {about.get('format')!r}; this version reads {TASK_FORMAT}"
        )
    if len(about.get("labels", ())) < 2:
        raise GateError(f"task={str(folder)!r} names fewer than two labels")
    return about


def put_task(packing: Packing, hidden: int, folder: Path, side: str, about: dict[str, Any]) -> Task:
    """Head and, on the sparse side, token gates of a task folder, for a model whose weights have
    that side's adapter merged in.

    Raises:
        GateError: the weights are missing or do not fit.
    """
    labels = tuple(str(label) for label in about["labels"])
    head = nn.Linear(hidden, len(labels))
    try:
        stored = load_file(folder / side / "head.safetensors")
        head.load_state_dict({name: value.float() for name, value in stored.items()})
        if side == "sparse":
            weights = load_file(folder / side / "token_gates.safetensors")
            width = int(about["width"])
            for gate in add_token_gates(packing, hidden, width):
                prefix = f"layers.{gate.layer}."
                own = {
                    k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)
                }
                gate.load_state_dict({name: value.float() for name, value in own.items()})
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise GateError(
            f"task={str(folder)!r} is broken or made for another model: {error}"
        ) from error
    device = next(packing.layers[0].module.parameters()).device
    return Task(
        name=str(about["task"]),
        labels=labels,
        head=head.requires_grad_(False).eval().to(device),
        policy=Policy(**about["policy"]) if side == "sparse" else Policy(mass=1.0),
        training=about.get("training", {}),
        evaluation=about.get("evaluation", {}),
    )


def save_side(
    folder: Path,
    side: str,
    adapter: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    head: nn.Linear,
    gates: list[TokenGate],
) -> None:
    """Writes one side's adapter, head and gates, as float16; each file is renamed into place."""
    path = folder / side
    path.mkdir(parents=True, exist_ok=True)
    gate_weights = {
        f"layers.{gate.layer}.{name}": value
        for gate in gates
        for name, value in gate.state_dict().items()
    }
    files = {
        "adapter_model": {f"base_model.model.{name}": value for name, value in adapter.items()},
        "head": head.state_dict(),
        **({"token_gates": gate_weights} if gates else {}),
    }
    for name, tensors in files.items():
        half = {k: v.detach().cpu().to(torch.float16).contiguous() for k, v in tensors.items()}
        with replacing(path / f"{name}.safetensors") as part:
            save_file(half, part)
    write_json(path / "adapter_config.json", dict(settings))


def describe(
    folder: Path,
    name: str,
    model: str,
    labels: tuple[str, ...],
    *,
    width: int,
    policy: Policy,
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
) -> None:
    """Writes task.json, last of all: a folder without it is not a task folder."""
    about = {
        "format": TASK_FORMAT,
        "task": name,
        "model": model,
        "labels": list(labels),
        "width": width,
        "policy": asdict(policy),
        "training": dict(training),
        "evaluation": dict(evaluation),
    }
    write_json(folder / "task.json", about)
