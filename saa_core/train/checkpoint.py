"""The state of a training run on disk, so that a run that was cut off goes on where it stopped.

Holds parameters, their Adam state and the configuration.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saa_core.errors import GateError
from saa_core.files import replacing, write_json

FREE = ("steps", "checkpoint", "save_every", "recompute")
"""What a resumed run may change: it may run for more steps, or hold less."""


class Config(Protocol):
    """What a configuration must have; it is a dataclass."""

    @property
    def steps(self) -> int: ...
    @property
    def checkpoint(self) -> str | None: ...
    @property
    def save_every(self) -> int: ...


@dataclass(frozen=True)
class StageConfig:
    """What one stage of a longer training must share with the run that resumes it.

    Args:
        settings: of the training, as JSON.
        data: sha256 of the texts and of everything else that is learned from.
    """

    settings: str
    data: str
    stage: str
    steps: int
    checkpoint: str
    save_every: int


class Checkpoint:
    """Saves and restores parameters and optimizer of one run."""

    def __init__(
        self,
        config: Config,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        assert config.checkpoint is not None
        self.folder = Path(config.checkpoint)
        self.config = config
        self.parameters = parameters
        self.optimizer = optimizer

    @classmethod
    def of(
        cls,
        config: Config,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> "Checkpoint | None":
        """None where the configuration names no folder."""
        return cls(config, parameters, optimizer) if config.checkpoint else None

    def due(self, step: int) -> bool:
        return step % self.config.save_every == 0 or step == self.config.steps

    def save(self, step: int) -> None:
        """Writes everything; one rename makes the new state the current one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"{name}.value"] = parameter.detach().cpu().contiguous()
            state = self.optimizer.state.get(parameter, {})
            for moment in ("exp_avg", "exp_avg_sq"):  # none yet where nothing was learned
                found = state.get(moment, torch.zeros_like(parameter))
                tensors[f"{name}.{moment}"] = found.detach().cpu().contiguous()
        file = f"state-{step}.safetensors"
        with replacing(self.folder / file) as part:
            save_file(tensors, part)
        about = {"step": step, "file": file, "config": self._comparable()}
        write_json(self.folder / "state.json", about)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != file:
                old.unlink()

    def restore(self) -> int:
        """Steps done before; 0 where nothing was saved.

        Raises:
            GateError: the folder belongs to another configuration.
        """
        if not (self.folder / "state.json").is_file():
            return 0
        about = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        if about["config"] != self._comparable():
            raise GateError(
                f"checkpoint={str(self.folder)!r} was made with {about['config']}, and this run "
                f"asks for {self._comparable()}; use another folder or the same configuration"
            )
        tensors = load_file(self.folder / about["file"])
        for name, parameter in self.parameters.items():
            found = tensors.get(f"{name}.value")
            if found is None or found.shape != parameter.shape:
                raise GateError(
                    f"checkpoint={str(self.folder)!r} has no {name} of shape {tuple(parameter.shape)}; "
                    "it was made for another model"
                )
        for name, parameter in self.parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"{name}.value"])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(about["step"])),
                "exp_avg": tensors[f"{name}.exp_avg"].to(parameter.device),
                "exp_avg_sq": tensors[f"{name}.exp_avg_sq"].to(parameter.device),
            }
        return int(about["step"])

    def _comparable(self) -> dict[str, Any]:
        """The part of the configuration that a resumed run must share."""
        found = asdict(self.config)  # type: ignore[call-overload]
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in found.items()
            if key not in FREE
        }
