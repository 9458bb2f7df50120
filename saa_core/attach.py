"""Puts gates into an existing Hugging Face model and takes them out again.

Gates sit on the attention modules as ``saa_gate``; the attention implementation is switched
through Transformers' registry. No modelling code is forked, and a model called without ``saa=``
computes exactly what it computed before.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from saa_core import attention
from saa_core.data import fetch
from saa_core.errors import ModelError, choice
from saa_core.families import Family, family_named, family_of
from saa_core.files import replacing, write_json
from saa_core.gates.files import GATE_FORMAT, read_gates
from saa_core.gates.pair import PairGate
from saa_core.gates.reliability import Reliability
from saa_core.task import SIDES, Task, put_task, read_task
from saa_core.types import Policy


@dataclass(frozen=True)
class Spec:
    """What a model is and where its gate comes from.

    Args:
        name: alias, hub id, folder or class name.
        family: key in FAMILIES.
        licence: of the model's weights, if known.
        note: what a user should know about the weights.
        gate: id of the trained gates, or "untrained".
        adapter: name of the low-rank adapter that was merged into the weights, if any.
        task: name of the classification task that the weights were tuned for, if any.
        trained: False where the gates are fresh; their decisions then mean nothing.
        training: how the gates were trained, as stored with them.
        evaluation: what was measured when the gates were trained, as stored with them.
        policy: the default: calibrated where the gates are trained.
        reliability: how true predicted mass was found to be, as stored with the gates.
    """

    name: str
    family: str
    licence: str = "unknown"
    note: str = ""
    gate: str = "untrained"
    adapter: str | None = None
    task: str | None = None
    trained: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    reliability: tuple[Reliability, ...] = ()

    @property
    def title(self) -> str:
        """Name with adapter or task, so that nobody takes the one model for the other."""
        return " + ".join(part for part in (self.name, self.adapter, self.task) if part)


@dataclass(frozen=True)
class Model:
    """A Hugging Face model with gates attached, its tokenizer, what is known about both, and the
    classification task that it was loaded for, if any."""

    hf: Any
    tokenizer: Any
    spec: Spec
    task: Task | None = None

    @property
    def device(self) -> torch.device:
        parameter: torch.Tensor = next(self.hf.parameters())
        return parameter.device

    @property
    def dtype(self) -> torch.dtype:
        parameter: torch.Tensor = next(self.hf.parameters())
        return parameter.dtype

    @cached_property
    def dense_side(self) -> "Model":
        """The model that was fine-tuned for the same task and drops nothing; loaded when it is asked for.

        Raises:
            ModelError: the model was loaded for no task.
        """
        if self.task is None or self.task.folder is None:
            raise ModelError(
                f"model={self.spec.title!r} was loaded for no task; it has no dense side"
            )
        if self.task.side == "dense":
            return self
        return load(
            self.spec.name,
            device=str(self.device),
            dtype=self.dtype,
            task=self.task.folder,
            side="dense",
        )

    @property
    def causal(self) -> bool:
        """True for a language model, which writes text; False for an encoder."""
        return family_of(self.hf).causal

    @property
    def max_length(self) -> int:
        """Longest text in tokens that the model was made for."""
        return family_of(self.hf).max_length(self.hf.config)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a long text to cut windows from; an encoder's without special tokens."""
        found = self.tokenizer(text, verbose=False, add_special_tokens=self.causal)["input_ids"]
        return list(found)

    def framed(self, ids: Sequence[int]) -> list[int]:
        """A window of token ids as the model wants it: an encoder's between its special tokens.

        The frame takes the place of the first and last token, so that lengths stay what they are.
        """
        if self.causal or self.tokenizer.cls_token_id is None:
            return list(ids)
        return [self.tokenizer.cls_token_id, *ids[1:-1], self.tokenizer.sep_token_id]

    @property
    def gates(self) -> list[PairGate]:
        """The gates, in layer order."""
        return [module.saa_gate for module in family_of(self.hf).attentions(self.hf)]  # type: ignore[misc]


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    gates: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    task: str | os.PathLike[str] | None = None,
    side: Literal["auto", "sparse", "dense"] = "auto",
    progress: fetch.Progress | None = None,
) -> Model:
    """Loads a model and attaches gates; fetches a pinned model once if it is missing.

    Args:
        name: an alias of assets/models.toml, a hub id or a local folder.
        device: "auto" (cuda, mps or cpu), or a device that torch knows.
        dtype: of the weights; float32 on a CPU and bfloat16 elsewhere by default.
        gates: folder of trained gates. By default those shipped for an alias; a hub id or folder
            gets fresh, untrained ones. An adapter brings its own.
        adapter: name of a shipped low-rank adapter, or a folder written by :func:`save_adapter`; it
            is merged into the weights. The model is then another one, also when it is called
            without a policy.
        task: name of a shipped classification task, or a folder written by ``saa train-task``.
        side: of the task: "sparse" has token gates, "dense" is what it is compared with; "auto" is
            the one that was found best on validation texts.

    Raises:
        ModelError: the name is no alias, folder or reachable hub id, the family is unsupported, or
            the adapter is broken or made for another model.
        FetchError: a pinned model could not be downloaded or verified.
        GateError: the gate folder is broken or made for another model.
    """
    target = pick_device(device)
    if side not in ("auto", *SIDES):
        raise ModelError(choice("side", side, ("auto", *SIDES)))
    if task is None and side != "auto":
        raise ModelError(f"side={side!r} belongs to a task; name one with task=")
    if adapter is not None and task is not None:
        raise ModelError(f"adapter={str(adapter)!r} and task={str(task)!r} exclude each other")
    lora = None if adapter is None else _shipped_folder("adapter", name, adapter)
    folder = None if task is None else _shipped_folder("task", name, task)
    about = None if folder is None else read_task(folder)
    if about is not None and side == "auto":
        side = about.side  # type: ignore[assignment]
    if gates is None and lora is not None:
        gates = lora / "gates"
    if gates is not None:
        read_gates(gates)  # refused before anything is downloaded
    dtype = dtype or (torch.float32 if target.type == "cpu" else torch.bfloat16)
    pinned = fetch.models().get(name)
    source = str(fetch.fetch_model(name, progress)) if pinned else name
    try:
        with fetch.quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source)
            family = family_named(AutoConfig.from_pretrained(source).model_type, f"model={name!r}")
            kind = AutoModelForCausalLM if family.causal else AutoModel
            hf: Any = kind.from_pretrained(source, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model={name!r} could not be loaded: it is not an alias "
            f"({', '.join(sorted(fetch.models()))}), and as a folder or hub id it gave: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if folder is not None and family.pack is None:
        raise ModelError(f"task={str(task)!r}: model={name!r} of family {family.name} has no tasks")
    shipped = fetch.assets() / "gates" / name
    if gates is None and pinned and (shipped / "gates.json").is_file():
        gates = shipped
    if lora is not None:
        hf = _merged(hf, lora, "adapter")
    if folder is not None:
        hf = _merged(hf, folder / side, "task")
    model = attach(hf.to(target).eval(), tokenizer, gates=gates)
    found = None
    if folder is not None and about is not None and family.pack is not None:
        hidden = int(model.hf.config.hidden_size)
        found = put_task(family.pack(model.hf), hidden, folder, side, about)
        for gate in model.gates:
            gate.mass_maps, gate.known_inputs = {}, None  # measured with other weights
    described = replace(
        model.spec,
        name=name,
        licence=pinned.licence if pinned else "unknown",
        note=pinned.note if pinned else "",
        adapter=None if lora is None else lora.name,
        task=None if found is None else found.name,
        policy=model.spec.policy if found is None else found.policy,
        evaluation=model.spec.evaluation if found is None else found.evaluation,
        reliability=model.spec.reliability if found is None else (),
    )
    return replace(model, spec=described, task=found)


MARKS = {"adapter": "adapter_config.json", "task": "task.json"}
"""The file that makes a folder one of these."""


def _shipped_folder(kind: str, model: str, given: str | os.PathLike[str]) -> Path:
    """A shipped adapter or task by its bare name, or a folder."""
    shipped, mark, path = fetch.assets() / f"{kind}s" / model, MARKS[kind], Path(given)
    for folder in (shipped / path, path) if len(path.parts) == 1 else (path,):
        if (folder / mark).is_file():
            return folder
    known = fetch.shipped(f"{kind}s", model)
    raise ModelError(
        f"{kind}={str(given)!r} is neither a folder with {mark} nor shipped for "
        f"model={model!r}; shipped: {', '.join(known) or 'none'}"
    )


def _merged(hf: Any, folder: Path, argument: str) -> Any:
    """The model with the adapter added to its weights; the adapter itself is gone."""
    from peft import PeftModel  # here: importing it takes a second

    try:
        adapted = PeftModel.from_pretrained(hf, folder)
        return adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{argument}={str(folder)!r} does not fit this model or is broken: "
            f"{str(error).splitlines()[0]}"
        ) from error


def pick_device(device: str) -> torch.device:
    """ "auto" takes cuda, then mps, then cpu.

    Raises:
        ModelError: the device is not known, or not on this machine.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if device == "auto":
        return torch.device(available[0])
    if device.split(":")[0] not in available:
        raise ModelError(
            f"device={device!r} is not on this machine; choose one of: auto, {', '.join(available)}"
        )
    return torch.device(device)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether products in bfloat16 are no slower than in float32.

    A CPU without AVX-512 takes some 35 times as long for them (measured on an AMD EPYC with AVX2).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"


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
    known = model.gates[0].known_inputs
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
    return [gate.mass_maps.get(found.pairwise) for gate in model.gates] == list(found.maps)
