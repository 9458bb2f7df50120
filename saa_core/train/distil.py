"""Trains gates on a frozen model: the predicted mass of each block follows the true one.

The model runs dense; inside its forward pass each layer's gate is scored against that layer's own
softmax on some blocks of queries, so nothing but one window is ever held.

Loss: Kullback-Leibler divergence of the true block mass from the predicted one, averaged over
query blocks and heads (nats), after SeerAttention (arXiv 2410.13276).
"""

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from saa_core import rules
from saa_core.attention import Call
from saa_core.data.corpus import draw_windows
from saa_core.errors import PolicyError
from saa_core.exact import attention_weights, per_block
from saa_core.families.recompute import held
from saa_core.gates.pair import PairGate, grid
from saa_core.model import Model
from saa_core.pairs import Allowed
from saa_core.run.execute import forward
from saa_core.train.checkpoint import Checkpoint
from saa_core.train.config import TrainConfig
from saa_core.types import PAIR_LIMIT, Policy

BLOCKS = ((32, 16), (32, 16), (1, 1), (32, 16), (16, 16), (64, 32), (32, 16), (1, 1))
"""Block sizes in turn, so that one set of weights serves them all; the shipped one most often."""
EPSILON = 1e-9


@dataclass(frozen=True)
class TrainStep:
    """One step: loss (nats per query block), density at mass 0.95, seconds since the start.

    ``source`` is the name of the text that the window is from, as ``texts`` has it: its kind in ``saa train``.
    """

    step: int
    loss: float
    density: float
    length: int
    block: tuple[int, int]
    source: str
    seconds: float


def train_gates(
    model: Model, texts: Mapping[str, str] | Sequence[str], config: TrainConfig | None = None
) -> Iterator[TrainStep]:
    """Trains the gates of an attached model in place, one window per step; yields each step.

    Args:
        texts: texts to cut windows from, by kind or as a plain list. Kinds take turns.

    Raises:
        ModelError, TextError, PolicyError: no tokenizer, no text of the shortest length, bad config.
        GateError: the checkpoint belongs to another configuration.
    """
    config = config or TrainConfig()
    named = texts if isinstance(texts, Mapping) else {"text": "\n\n".join(texts)}
    streams = {name: model.tokenize(text) for name, text in named.items()}
    if max(config.lengths) > model.max_length:
        raise PolicyError(
            f"lengths={config.lengths!r}: {model.spec.name} takes at most {model.max_length} tokens"
        )
    gates = model.gates
    pool(gates, config.pooled)
    optimizer = torch.optim.Adam(gate_parameters(gates).values(), lr=config.rate)
    saved = Checkpoint.of(config, gate_parameters(gates), optimizer)
    start = saved.restore() if saved else 0
    began = time.perf_counter()
    shortest = min(min(config.lengths), max(len(ids) for ids in streams.values()))
    lengths = [length for length in config.lengths if length >= shortest]
    drawn = draw_windows(streams, lengths, config.seed, skip=start)
    for gate in gates:
        gate.requires_grad_(True)
        gate.mass_calibrators, gate.ood_detector = {}, None  # measured of what was before
        gate.defaults = None
    try:
        for step, (source, _, ids) in zip(range(start, config.steps), drawn, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = config.rate * schedule(step / config.steps)
            block = _block(step, len(ids))
            lesson = GateDistiller(model, block, config.rows, f"{config.seed}/{step}")
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                tokens = torch.tensor([model.frame(ids)], device=model.device)
                forward(model, tokens, Call(observe=lesson.layer))
            optimizer.step()
            if saved and saved.due(step + 1):
                saved.save(step + 1)
            yield TrainStep(
                step=step + 1,
                loss=lesson.loss / len(gates),
                density=lesson.density / len(gates),
                length=len(ids),
                block=block,
                source=source,
                seconds=time.perf_counter() - began,
            )
    finally:
        for gate in gates:
            gate.requires_grad_(False)


def pool(gates: Sequence[PairGate], pooled: int | None) -> None:
    """Lets so many neighbouring queries share one score row; None leaves the gates as they are.

    Raises:
        PolicyError: it is no whole number >= 1.
    """
    for gate in gates if pooled is not None else ():
        gate.config = replace(gate.config, pooled=pooled)  # type: ignore[arg-type]


def _block(step: int, length: int) -> tuple[int, int]:
    block = BLOCKS[step % len(BLOCKS)]
    return (32, 16) if block == (1, 1) and length > PAIR_LIMIT else block


def schedule(done: float) -> float:
    warm = 0.05
    return (
        done / warm + 0.01
        if done < warm
        else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
    )


def gate_parameters(gates: Sequence[PairGate]) -> dict[str, nn.Parameter]:
    """Every parameter of the gates, by layer and name."""
    return {
        f"{index}.{name}": parameter
        for index, gate in enumerate(gates)
        for name, parameter in gate.named_parameters()
    }


class GateDistiller:
    """Scores every layer of one forward pass and leaves the gradients on the gates."""

    def __init__(self, model: Model, block: tuple[int, int], rows: int, seed: str) -> None:
        self.gates: list[PairGate] = model.gates
        self.block = block
        self.rows = rows
        self.draw = random.Random(seed)
        self.loss = 0.0
        self.density = 0.0
        self.taught: set[int] = set()

    def layer(self, layer: int, q: Tensor, k: Tensor, allowed: Allowed, scale: float) -> None:
        if layer in self.taught:  # computed again on the way back (families/recompute.py)
            return
        self.taught.add(layer)
        q_BHQD, k_BGKD = q.detach().float(), k.detach().float()
        chosen = choose_rows(allowed.queries, self.block, self.rows, self.draw).to(q.device)
        target = block_mass(q_BHQD, k_BGKD, allowed, self.block, chosen, scale)
        with held():
            loss, predicted = learn(
                self.gates[layer], q_BHQD, k_BGKD, allowed, self.block, chosen, target
            )
        self.loss += loss
        count = allowed.count(self.block)
        forced = rules.forced(allowed, Policy(tail=0), self.block, count)[:, :, chosen]
        keep, _ = rules.mass(predicted, forced, count[:, :, chosen], 0.95)
        kept = (keep * count[:, :, chosen]).sum((2, 3)).float()
        self.density += float((kept / count[:, :, chosen].sum((2, 3))).mean())


def choose_rows(queries: int, block: tuple[int, int], rows: int, draw: random.Random) -> Tensor:
    """Blocks of queries that a gate learns from, about ``rows`` queries in all; ascending indices."""
    M = math.ceil(queries / block[0])
    return torch.tensor(sorted(draw.sample(range(M), min(M, max(1, rows // block[0])))))


def learn(
    gate: PairGate,
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    allowed: Allowed,
    block: tuple[int, int],
    chosen: Tensor,
    target: Tensor,
) -> tuple[float, Tensor]:
    """Adds the gradient of the chosen rows to the gate; the loss (nats per query block) and what it predicted.

    Args:
        target: true mass of the blocks of those rows, see :func:`block_mass`.
    """
    with torch.enable_grad():
        rows = grid(allowed, block, chosen, pooled=gate.pooled)
        predicted = gate(q_BHQD, k_BGKD, allowed, rows)
        gain = (target + EPSILON).log() - (predicted + EPSILON).log()
        loss = (target * gain).sum(-1).mean()
        loss.backward()
    return float(loss.detach()), predicted.detach()


def block_mass(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    allowed: Allowed,
    block: tuple[int, int],
    chosen: Tensor,
    scale: float,
) -> Tensor:
    """True attention mass of each key block, averaged over the queries of the chosen query blocks.

    Returns:
        float32 [B, H, len(chosen), S]; rows sum to 1.
    """
    bq, bk = block
    Q = q_BHQD.shape[2]
    rows = (chosen[:, None] * bq + torch.arange(bq, device=chosen.device)).flatten()
    real = (rows < Q).float()
    rows = rows.clamp(max=Q - 1)
    pairs = allowed.pairs[:, :, rows]
    weights = per_block(attention_weights(q_BHQD[:, :, rows], k_BGKD, pairs, scale), bk)
    weights = (weights * real[:, None]).unflatten(2, (-1, bq)).sum(3)
    mean: Tensor = weights / real.view(-1, bq).sum(1)[:, None]
    return mean
