"""Puts gates into an existing Hugging Face model and takes them out again.

Gates sit on the attention modules as ``saa_gate``; the attention implementation is switched
through Transformers' registry. No modelling code is forked, and a model called without ``saa=``
computes exactly what it computed before.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saa_core import attention
from saa_core.attention import Call, Dense, Name
from saa_core.errors import ModelError, PolicyError, SAAError
from saa_core.families import Family, family_of
from saa_core.families.arguments import Handed
from saa_core.files import replacing, write_json
from saa_core.gates.files import GATE_FORMAT, read_gates
from saa_core.gates.pair import PairGate
from saa_core.gates.reliability import Reliability
from saa_core.model import Model, Spec
from saa_core.types import Policy

PREPARE = "prepare_inputs_for_generation"
PROBED_TOKENS = 8
TOLERANCE = 1e-4
"""Largest difference between mass 1.0 and dense that the probe accepts, relative to dense."""


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
    if base not in attention.BASES:
        raise ModelError(
            f"hf uses attn_implementation={base!r}, which SAA cannot take over; load it with one "
            f"of: {', '.join(sorted(attention.BASES))}"
        )
    devices = [_device_of(module) for module in modules]
    stored = None if gates is None else read_gates(gates)
    fresh = _fresh(family, modules, rank if stored is None else stored.rank)
    if stored is not None:
        stored.fill(fresh)
    for module, gate, device in zip(modules, fresh, devices, strict=True):
        module.saa_gate = gate.to(device)
        if getattr(module, "reorder_and_upcast_attn", False):
            # GPT-2 then goes past the registry; its way is kept in attention._eager.
            module.saa_upcast, module.reorder_and_upcast_attn = True, False  # type: ignore[assignment]
    for own in _configs(hf, base):
        own._attn_implementation = Name(attention.PREFIX + base)
    _watch(hf)
    _take_generation(hf)
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
    model = Model(hf=hf, tokenizer=tokenizer, spec=spec)
    if probe and not any(parameter.is_meta for parameter in hf.parameters()):
        try:
            _probe(hf, family)
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
    if isinstance(vars(model.hf).get(PREPARE), _Prepare):
        delattr(model.hf, PREPARE)
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
        attention.check_call(call)
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


def _take_generation(hf: Any) -> None:
    """Lets ``generate`` take ``saa=``: a wrapper on this instance."""
    if hasattr(hf, PREPARE) and PREPARE not in vars(hf):
        setattr(hf, PREPARE, _Prepare(hf))


class _Prepare:
    """``prepare_inputs_for_generation`` of one model, which gives each forward that reads the prompt a
    Call. A copy of the model takes a copy of it along."""

    def __init__(self, hf: Any) -> None:
        self.hf = hf

    def __call__(self, *args: Any, saa: Any = None, **kwargs: Any) -> dict[str, Any]:
        """What forward is given.

        Args:
            saa: a Policy, or a function without arguments that returns a Call (to keep its record).
        """
        inputs: dict[str, Any] = getattr(type(self.hf), PREPARE)(self.hf, *args, **kwargs)
        reads_prompt = kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True)
        if saa is not None and reads_prompt:
            inputs["saa"] = _call_for(saa)
        return inputs


def _call_for(saa: Policy | Callable[[], Call]) -> Call:
    """A Call for one forward of ``generate``.

    Raises:
        PolicyError: it is neither a policy nor makes Calls; the policy's guard cannot keep its word.
    """
    if isinstance(saa, Policy):
        if saa.guard is not None and saa.guard.missed_mass is not None:
            raise PolicyError(
                "guard: hf.generate cannot read a prompt a second time where the limit was not met; use "
                "saa_core.run.generate, or give a function that makes Calls and look at call.checked()"
            )
        return Call(saa)
    if isinstance(saa, Call):
        raise PolicyError(
            "saa: a Call is for one forward, and generate makes many; give its policy, or a function "
            "that makes Calls"
        )
    made = saa() if callable(saa) else None
    if not isinstance(made, Call):
        raise PolicyError(f"saa={saa!r} must be a Policy, or a function that returns a new Call")
    return made


class _Probe(Call):
    """Compares every layer that keeps everything with what the model computes itself, in float32, and goes
    on with the latter: layers are judged one by one, and whatever rounding does to a model."""

    def __init__(self) -> None:
        super().__init__(Policy(mass=1.0, granularity="pair", kernel="reference"))
        self.difference = 0.0
        self.again = False

    def attend(
        self, module: nn.Module, handed: Handed, dense: Dense
    ) -> tuple[Tensor, Tensor | None]:
        gate: PairGate = module.saa_gate  # type: ignore[assignment]
        self.again |= gate.layer in self.met
        precise = replace(handed, q=handed.q.float(), k=handed.k.float(), v=handed.v.float())
        found, expected = super().attend(module, precise, dense)[0], dense(True)[0]
        seen = self._plan(gate, handed).allowed.pairs.any(-1)[:, 0, :, None, None]
        size = (expected * seen).norm().clamp(min=1e-20)
        difference = float(((found - expected) * seen).norm() / size)
        self.difference = max(
            self.difference, difference if difference == difference else torch.inf
        )
        return dense()


def _probe(hf: Any, family: Family) -> None:
    """Raises ModelError where mass 1.0 is not what this very model computes."""
    name, call = f"hf={type(hf).__name__}", _Probe()
    ids, mask = _probe_input(hf, family)
    extra = {"use_cache": False} if family.causal else {}
    try:
        with torch.no_grad(), _undisturbed(hf):
            hf.base_model(input_ids=ids, attention_mask=mask, saa=call, **extra)
    except SAAError as error:
        raise ModelError(f"{name} cannot run under a policy: {error}") from error
    except Exception as error:
        raise ModelError(
            f"{name}: forward(input_ids, attention_mask) failed on {tuple(ids.shape)} tokens with "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; if it needs "
            "other inputs, attach with probe=False"
        ) from error
    layers = len(family.attentions(hf))
    if call.again or len(call.met) < layers:
        raise ModelError(
            f"{name} has {layers} attention modules, of which one forward met {len(call.met)}"
            f"{', some of them several times' if call.again else ''}; SAA needs each exactly once"
        )
    if call.difference > TOLERANCE:
        raise ModelError(
            f"{name}: keeping every pair differs from its own attention by {call.difference:.2g} of it "
            f"(at most {TOLERANCE:g}, both in float32), so its attention is of a kind that SAA does not "
            "know"
        )


def _probe_input(hf: Any, family: Family) -> tuple[Tensor, Tensor]:
    """Two texts of token ids, one of them padded on the usual side, [2, N] each."""
    table = hf.get_input_embeddings().weight
    special = {getattr(hf.config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")}
    usual = [i for i in range(min(len(table), 4 * PROBED_TOKENS)) if i not in special] or [0]
    count = min(PROBED_TOKENS, family.max_length(hf.config))
    ids = torch.tensor(usual)[torch.arange(2 * count) % len(usual)].view(2, count)
    mask = torch.ones_like(ids)
    padding = count // 3
    mask[1, slice(padding) if family.causal else slice(count - padding, count)] = 0
    return ids.to(table.device), mask.to(table.device)


@contextmanager
def _undisturbed(hf: nn.Module) -> Iterator[None]:
    """Evaluation mode and whole float32 products for a while; then all is as it was, modes, buffers and
    random numbers too."""
    training = [module for module in hf.modules() if module.training]
    buffers = [
        (module, name, value, None if value is None else value.clone())
        for module in hf.modules()
        for name, value in module._buffers.items()
    ]
    precision = torch.get_float32_matmul_precision()
    devices = {parameter.device for parameter in hf.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            for module in training:
                module.training = False
            torch.set_float32_matmul_precision("highest")
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for module in training:
            module.training = True
        with torch.no_grad():
            for module, name, value, copy in buffers:
                module._buffers[name] = value
                if value is not None and copy is not None:
                    value.copy_(copy)


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
