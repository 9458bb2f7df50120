"""Trains model and gates together: the model learns to live with what the gates drop.

Low-rank adapters (LoRA, arXiv 2106.09685) on the attention projections are trained under the sparse
mask against the model's own dense predictions, while the gates go on learning the mass of the
attention as it changes. The frozen weights never change, and no label is used, so the adapter has
nothing to gain but what sparsity lost.

Loss: Kullback-Leibler divergence of the dense model's next-token distribution from the sparse
one's (nats, mean over positions), and each gate's own loss (see distil.py) beside it.
"""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saa_core.attach import save_gates
from saa_core.attention import Call
from saa_core.data.corpus import draw_windows
from saa_core.errors import ModelError
from saa_core.families.recompute import recomputed
from saa_core.gates.files import read_gates
from saa_core.model import Model
from saa_core.run.execute import forward
from saa_core.train import lora
from saa_core.train.checkpoint import Checkpoint
from saa_core.train.config import CANDIDATES, JointConfig
from saa_core.train.distil import GateDistiller, gate_parameters, pool, schedule
from saa_core.types import Policy

ADAPTER = "saa"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
BLOCK = (32, 16)
SLICE = 256
"""Positions whose distributions over the vocabulary are held at once."""


@dataclass(frozen=True)
class JointStep:
    """One step: divergence from the dense model (nats per token), the gates' loss, and what it was on."""

    step: int
    divergence: float
    gate_loss: float
    density: float
    mass: float
    length: int
    source: str
    seconds: float


def train_joint(
    model: Model, texts: Mapping[str, str], config: JointConfig | None = None
) -> Iterator[JointStep]:
    """Trains a low-rank adapter and the gates of a language model in place; yields each step.

    The model carries the adapter from then on (PEFT, named "saa"), also when it is called without a
    policy: save it with :func:`save_adapter` and load it again for use.

    Args:
        texts: texts to cut windows from, by kind. Kinds take turns.

    Raises:
        ModelError: the model is an encoder, or its projections have other names.
        TextError, PolicyError: no text of the shortest length; a bad configuration.
        GateError: the checkpoint belongs to another configuration, or ``start`` is no adapter of
            this rank for this model.
    """
    config = config or JointConfig()
    adapter = _add_adapter(model, config)
    gates = gate_parameters(model.gates)
    optimizer = torch.optim.Adam(
        [
            {"params": list(adapter.values()), "highest": config.rate},
            {"params": list(gates.values()), "highest": config.gate_rate},
        ]
    )
    saved = Checkpoint.of(config, adapter | gates, optimizer)
    start = saved.restore() if saved else 0
    streams = {name: model.tokenize(text) for name, text in texts.items()}
    stream = draw_windows(streams, config.lengths, config.seed, skip=start)
    began = time.perf_counter()
    for gate in model.gates:
        gate.requires_grad_(True)
        gate.mass_calibrators, gate.ood_detector = {}, None  # measured of what was before
        gate.defaults = None
    try:
        for step, (source, _, ids) in zip(range(start, config.steps), stream, strict=False):
            draw = random.Random(f"{config.seed}/{step}")
            mass = draw.uniform(*config.masses)
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * schedule(step / config.steps)
            lesson = GateDistiller(model, BLOCK, config.rows, f"{config.seed}/{step}")
            optimizer.zero_grad(set_to_none=True)
            tokens = torch.tensor([ids], device=model.device)
            places = torch.tensor(draw.sample(range(len(ids)), len(ids)), device=model.device)
            drawn, others = places[: config.positions], places[config.positions :][:CANDIDATES]
            policy = Policy(mass=mass, granularity="block", block=BLOCK, tail=0)
            call = Call(policy, observe=lesson.layer)
            with recomputed(model.hf) if config.recompute else nullcontext():
                divergence = _divergence(model, tokens, drawn, others, config.hard, call)
                divergence.backward()
            nn.utils.clip_grad_norm_(adapter.values(), 1.0)
            optimizer.step()
            if saved and saved.due(step + 1):
                saved.save(step + 1)
            yield JointStep(
                step=step + 1,
                divergence=float(divergence.detach()),
                gate_loss=lesson.loss / len(model.gates),
                density=lesson.density / len(model.gates),
                mass=mass,
                length=len(ids),
                source=source,
                seconds=time.perf_counter() - began,
            )
    finally:
        for parameter in gates.values():
            parameter.requires_grad_(False)


def _add_adapter(model: Model, config: JointConfig) -> dict[str, nn.Parameter]:
    """Freezes the weights, adds the adapter in float32 and returns its parameters by name."""
    if not model.causal:
        raise ModelError(f"model={model.spec.name!r} is an encoder; joint training needs a decoder")
    last = {name.rsplit(".", 1)[-1] for name, _ in model.hf.named_modules()}
    if not set(PROJECTIONS) <= last:
        raise ModelError(
            f"model={model.spec.name!r} has no {', '.join(sorted(set(PROJECTIONS) - last))}; joint "
            f"training needs attention with projections {', '.join(PROJECTIONS)}"
        )
    model.hf.requires_grad_(False)
    lora.add(model.hf, ADAPTER, PROJECTIONS, config.rank, seed=config.seed)
    if config.start is not None:
        read_gates(Path(config.start) / "gates").fill(model.gates)
        lora.fill(model.hf, ADAPTER, Path(config.start), "start")
    pool(model.gates, config.pooled)
    return lora.weights(model.hf, ADAPTER)


def _divergence(
    model: Model, tokens: Tensor, drawn: Tensor, others: Tensor, hard: int, call: Call
) -> Tensor:
    """KL(dense original || sparse with adapter), nats, mean over the drawn positions and the hardest
    of the others."""
    head = model.hf.get_output_embeddings()
    model.hf.disable_adapters()
    try:
        with torch.no_grad():
            dense = forward(model, tokens, Call())[0]
    finally:
        model.hf.enable_adapters()
    sparse = forward(model, tokens, call)[0]
    if hard and len(others):
        with torch.no_grad():
            gaps = [_gap(head, dense[part], sparse[part]) for part in others.split(SLICE)]
        drawn = torch.cat([drawn, others[torch.cat(gaps).topk(min(hard, len(others))).indices]])
    return _gap(head, dense[drawn], sparse[drawn]).mean()


def _gap(head: nn.Module, dense: Tensor, sparse: Tensor) -> Tensor:
    """KL divergence of two final states' next-token distributions, nats, [positions]."""
    with torch.no_grad():
        truth = head(dense).float().log_softmax(-1)
    gap: Tensor = (truth.exp() * (truth - head(sparse).float().log_softmax(-1))).sum(-1)
    return gap


def save_adapter(
    model: Model,
    folder: str | Path,
    *,
    name: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the adapter in PEFT's format (float16) and the gates that belong to it (``gates/``).

    Each file is written beside its place and renamed.
    """
    path = Path(folder)
    lora.write(model.hf, ADAPTER, path, model.spec.name)
    # What was measured of the gates before does not hold for these.
    save_gates(model, path / "gates", name=name or path.name, training=training, evaluation={})
    return path
