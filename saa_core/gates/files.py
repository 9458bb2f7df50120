"""Trained gates as they lie in a folder: gates.safetensors beside gates.json, which describes them.

Written by attach.save_gates.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from saa_core.errors import GateError
from saa_core.gates.defaults import MassTable
from saa_core.gates.ood import OodDetector
from saa_core.gates.pair import POOLED, GateConfig, LayerSlack, PairGate
from saa_core.gates.reliability import Reliability

GATE_FORMAT = 1


@dataclass(frozen=True)
class StoredGates:
    """Gates read from a folder: weights by layer, and the JSON that describes them."""

    about: dict[str, Any]
    layers: list[GateConfig]
    calibration: list[LayerSlack]
    weights: dict[str, torch.Tensor]
    folder: Path
    reliability: tuple[Reliability, ...] = ()
    inputs: OodDetector | None = None
    defaults: MassTable | None = None

    @property
    def rank(self) -> int:
        return self.layers[0].rank

    @property
    def id(self) -> str:
        return str(self.about["id"])

    @property
    def trained(self) -> bool:
        return bool(self.about["trained"])

    def fill(self, gates: list[PairGate]) -> None:
        """Copies the weights into gates of the same shape, or raises GateError and copies none."""
        wanted = [gate.config for gate in gates]
        # How many queries share a row is no shape: the same weights serve any number.
        if [replace(c, pooled=POOLED) for c in wanted] != [
            replace(c, pooled=POOLED) for c in self.layers
        ]:
            raise GateError(
                f"gates={str(self.folder)!r} were made for {_shape(self.layers)}, "
                f"and this model has {_shape(wanted)}"
            )
        for index, gate in enumerate(gates):
            prefix = f"layers.{index}."
            state = {
                name.removeprefix(prefix): tensor.float()
                for name, tensor in self.weights.items()
                if name.startswith(prefix)
            }
            try:
                gate.load_state_dict(state)
            except RuntimeError as error:
                raise GateError(f"gates={str(self.folder)!r}: layer {index}: {error}") from error
            gate.config, gate.id = self.layers[index], self.id
            gate.defaults = self.defaults
            if self.calibration:
                gate.calibration = self.calibration[index]
            gate.mass_calibrators = {
                found.pairwise: found.maps[index] for found in self.reliability
            }
        gates[0].ood_detector = self.inputs


def _shape(layers: list[GateConfig]) -> str:
    first = layers[0]
    return (
        f"{len(layers)} layers of {first.heads} heads, {first.key_heads} key heads, "
        f"head size {first.head_size}, rank {first.rank}"
        f"{', both directions' if first.directed else ''}"
    )


def read_gates(folder: str | os.PathLike[str]) -> StoredGates:
    """Reads a gate folder: gates.safetensors and gates.json.

    Raises:
        GateError: a file is missing, broken, of another format, or the two do not belong together.
    """
    path = Path(folder)
    try:
        about = json.loads((path / "gates.json").read_text(encoding="utf-8"))
        raw = (path / "gates.safetensors").read_bytes()
        weights = load_file(path / "gates.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise GateError(
            f"gates={str(folder)!r} is not a gate folder (gates.json and gates.safetensors): {error}"
        ) from error
    if about.get("format") != GATE_FORMAT:
        raise GateError(
            f"gates={str(folder)!r} has format {about.get('format')!r}; this version reads "
            f"{GATE_FORMAT}"
        )
    if about.get("sha256") != hashlib.sha256(raw).hexdigest():
        raise GateError(f"gates={str(folder)!r}: gates.safetensors does not belong to gates.json")
    try:
        layers = [GateConfig(**layer) for layer in about["layers"]]
        calibration = [LayerSlack(**layer) for layer in about.get("calibration", [])]
        _shape(layers)
        if len(calibration) not in (0, len(layers)):
            raise ValueError(f"calibration of {len(calibration)} layers for {len(layers)}")
        reliability = tuple(Reliability(**found) for found in about.get("reliability", []))
        heads = [layer.heads for layer in layers]
        if any([len(m.slope) for m in found.maps] != heads for found in reliability):
            raise ValueError("reliability is not of these layers and heads")
        defaults = MassTable.read(about["defaults"]) if "defaults" in about else None
        inputs = None
        if "inputs" in about:
            mean, whiten = (weights[f"inputs.{name}"].float() for name in ("mean", "whiten"))
            inputs = OodDetector(mean, whiten, **about["inputs"])
            if len(mean) != layers[0].heads * layers[0].head_size:
                raise ValueError("inputs are not of these heads")
    except (TypeError, ValueError, KeyError, IndexError, GateError) as error:
        raise GateError(f"gates={str(folder)!r}: gates.json is not valid: {error}") from error
    return StoredGates(about, layers, calibration, weights, path, reliability, inputs, defaults)
