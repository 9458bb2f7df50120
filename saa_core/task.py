"""A classification task on top of an encoder: labels, head, token gates, and the folder they lie in.

A folder holds two low-rank adapters in PEFT's format: ``dense`` (fine-tuned for the task, drops nothing;
what everything is compared with) and ``sparse`` (trained on with the gates), a head for each, the
gates, and task.json.
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

from saa_core.errors import GateError, choice
from saa_core.families.packing import Packing
from saa_core.files import replacing, write_json
from saa_core.gates.token import TokenGate, TokenGateConfig
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
        shares: lowest and highest share of the token work that the gates were trained for.
        longest: tokens that texts were cut to.
        training, evaluation: as stored with the task.
        side: which of SIDES the model is.
        folder: where both sides lie.
    """

    name: str
    labels: tuple[str, ...]
    head: nn.Linear
    policy: Policy = field(default_factory=lambda: Policy(mass=1.0))
    shares: tuple[float, float] = (0.0, 1.0)
    longest: int = 512
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    side: str = "sparse"
    folder: Path | None = None

    def probabilities(self, means_BE: Tensor) -> Tensor:
        """[B, C] from the mean final state of each text."""
        weight = self.head.weight
        with torch.inference_mode():
            logits: Tensor = self.head(means_BE.to(weight.device, weight.dtype))
            return logits.float().softmax(-1)

    def least_margin(self, policy: Policy | None) -> float:
        """How far the two most probable labels have to be apart, so that the reference model is not asked."""
        if self.side == "dense" or policy is None or policy.guard is None:
            return 0.0
        return policy.guard.margin


def margins(probabilities_BC: Tensor) -> Tensor:
    """How far the two most probable labels are apart, [B]."""
    best = probabilities_BC.topk(2, -1).values
    return best[:, 0] - best[:, 1]


def add_token_gates(packing: Packing, hidden: int, width: int = 32) -> list[TokenGate]:
    """Puts a fresh gate in front of every layer but the first; the same ones each time."""
    draw = torch.Generator().manual_seed(0)
    gates = []
    for index, layer in enumerate(packing.layers[1:], 1):
        gate = TokenGate(TokenGateConfig(hidden, width), index, draw)
        device = next(layer.module.parameters()).device
        layer.module.saa_token_gate = gate.requires_grad_(False).eval().to(device)
        gates.append(gate)
    return gates


@dataclass(frozen=True)
class Description:
    """task.json, checked: see :class:`Task` for what the fields mean."""

    task: str
    model: str
    layers: int
    labels: tuple[str, ...]
    width: int
    side: str
    policy: Policy
    shares: tuple[float, float]
    longest: int
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or not all(isinstance(label, str) for label in self.labels):
            raise ValueError(f"labels={self.labels!r} must be two or more names")
        if self.side not in SIDES:
            raise ValueError(choice("side", self.side, SIDES))


def read_task(folder: str | os.PathLike[str], argument: str = "task") -> Description:
    """The description of a task folder.

    Raises:
        GateError: naming ``argument``; the folder is no task folder, broken, or of another format.
    """
    path = Path(folder)
    try:
        about: dict[str, Any] = dict(json.loads((path / "task.json").read_text(encoding="utf-8")))
        version = about.pop("format", None)
        if version != TASK_FORMAT:
            raise ValueError(f"it has format {version!r}; this version reads {TASK_FORMAT}")
        about["policy"] = Policy.stored(about["policy"])
        for name in ("labels", "shares"):
            about[name] = tuple(about[name])
        return Description(**about)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GateError(
            f"{argument}={str(folder)!r} is not a valid task folder: {error}"
        ) from error


def put_task(packing: Packing, hidden: int, folder: Path, side: str, about: Description) -> Task:
    """Head and, on the sparse side, token gates of a task folder, for a model whose weights have
    that side's adapter merged in.

    Raises:
        GateError: the weights are missing or do not fit.
    """
    if len(packing.layers) != about.layers:
        raise GateError(
            f"task={str(folder)!r} was made for {about.layers} layers, and this model has "
            f"{len(packing.layers)}"
        )
    head = nn.Linear(hidden, len(about.labels))
    read_head(folder / side, head)
    try:
        if side == "sparse":
            weights = load_file(folder / side / "token_gates.safetensors")
            for gate in add_token_gates(packing, hidden, about.width):
                prefix = f"layers.{gate.layer}."
                own = {
                    k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)
                }
                gate.load_state_dict({name: value.float() for name, value in own.items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise GateError(
            f"task={str(folder)!r} is broken or made for another model: {error}"
        ) from error
    device = next(packing.layers[0].module.parameters()).device
    return Task(
        name=about.task,
        labels=about.labels,
        head=head.requires_grad_(False).eval().to(device),
        policy=about.policy if side == "sparse" else Policy(mass=1.0),
        shares=about.shares,
        longest=about.longest,
        training=about.training,
        evaluation=about.evaluation,
        side=side,
        folder=folder,
    )


def read_head(folder: Path, head: nn.Linear, argument: str = "task") -> None:
    """Fills a head from one side of a task folder.

    Raises:
        GateError: naming ``argument``; there is none, or one of another shape.
    """
    try:
        stored = load_file(folder / "head.safetensors")
        head.load_state_dict({name: value.float() for name, value in stored.items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise GateError(
            f"{argument}={str(folder)!r} is broken or made for another model: {error}"
        ) from error


def save_side(folder: Path, head: nn.Linear, gates: list[TokenGate]) -> None:
    """Writes one side's head and gates, as float16; each file is renamed into place."""
    gate_weights = {
        f"layers.{gate.layer}.{name}": value
        for gate in gates
        for name, value in gate.state_dict().items()
    }
    files = {"head": head.state_dict(), **({"token_gates": gate_weights} if gates else {})}
    for name, tensors in files.items():
        half = {k: v.detach().cpu().to(torch.float16).contiguous() for k, v in tensors.items()}
        with replacing(folder / f"{name}.safetensors") as part:
            save_file(half, part)


def describe(folder: Path, about: Description) -> None:
    """Writes task.json, last of all: a folder without it is not a task folder."""
    write_json(folder / "task.json", {"format": TASK_FORMAT} | asdict(about))
