"""Shares the missed mass out over the layers: sensitive layers may miss less, robust ones more.

Two things are measured on texts that are not used for evaluation: how much each layer alone moves
the model's predictions when it misses mass, and how dense it is for each amount that it may miss.
Then the amounts are chosen that compute the fewest pairs for the same total movement, on the
assumption that movements of single layers add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core import rules
from saa_core.attention import Call
from saa_core.errors import ModelError
from saa_core.gates.pair import LayerSlack, grid
from saa_core.model import Model
from saa_core.pairs import Allowed
from saa_core.run.execute import forward
from saa_core.train.evaluate import spread_windows
from saa_core.types import Policy, Progress

SLACKS = (0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Multiples of the policy's missed mass that a layer may get."""
EVERY = 4
"""Positions of which one is compared: every fourth gives the mean well enough."""


@dataclass(frozen=True)
class Sensitivity:
    """What was measured of one layer.

    Args:
        movement: divergence of the model's predictions (nats; relative squared distance of the
            states for an encoder) when only this layer is sparse, mean over positions and windows.
        density: kept / allowed pairs for each of SLACKS.
    """

    movement: float
    density: tuple[float, ...]


def calibrate(
    model: Model,
    texts: dict[str, str],
    policy: Policy,
    *,
    length: int = 1024,
    windows: int = 1,
    exponent: float = 1.5,
    progress: Progress | None = None,
) -> list[LayerSlack]:
    """Measures the layers and sets each gate's calibration; returns them in layer order.

    Args:
        texts: by source; not those that the gates are judged on.
        policy: where on the scale to measure; its rule must be "mass".
        windows: per text.
        exponent: movement grows with missed mass to this power.

    Raises:
        ModelError: the model has fewer than two layers.
        TextError: a text is shorter than one window.
    """
    if len(model.gates) < 2:
        raise ModelError("model needs at least two layers to share anything out")
    pairwise = policy.block_for(length) == (1, 1)
    measured = sensitivities(model, texts, policy, length, windows, progress)
    slacks = share_out(measured, exponent)
    mean = sum(layer.density[SLACKS.index(s)] for layer, s in zip(measured, slacks, strict=True))
    found = []
    for gate, layer, slack in zip(model.gates, measured, slacks, strict=True):
        share = layer.density[SLACKS.index(slack)] / (mean / len(measured))
        gate.calibration = LayerSlack(slack, share, pairwise)
        found.append(gate.calibration)
    return found


def sensitivities(
    model: Model,
    texts: dict[str, str],
    policy: Policy,
    length: int,
    windows: int,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """Measures every layer alone; the gates' calibration is as before when it returns."""
    policy = model.gates[0].resolve(policy.decided(), length)
    batches = [
        tokens for text in texts.values() for tokens in spread_windows(model, text, length, windows)
    ]
    before = [gate.calibration for gate in model.gates]
    layers = len(before)
    movement = [0.0] * layers
    density = torch.zeros(layers, len(SLACKS))
    pairwise = policy.block_for(length) == (1, 1)
    try:
        with torch.inference_mode():
            for done, tokens in enumerate(batches):
                curves = _Curves(model, policy, density)
                dense = _Outcome(model, forward(model, tokens, Call(observe=curves.layer)))
                for layer, gate in enumerate(model.gates):
                    for other in model.gates:
                        other.calibration = LayerSlack(slack=0.0, pairwise=pairwise)
                    gate.calibration = LayerSlack(pairwise=pairwise)
                    movement[layer] += dense.distance(forward(model, tokens, Call(policy)))
                    if progress:
                        progress(done * layers + layer + 1, len(batches) * layers)
    finally:
        for gate, calibration in zip(model.gates, before, strict=True):
            gate.calibration = calibration
    count = len(batches)
    return [
        Sensitivity(movement[layer] / count, tuple((density[layer] / count).tolist()))
        for layer in range(layers)
    ]


def share_out(measured: Sequence[Sensitivity], exponent: float) -> list[float]:
    """A slack per layer: the fewest pairs for the movement that equal slacks would make.

    Starts with the least slack everywhere and gives the next step to the layer that saves most
    density per movement, until the movement of equal slacks is reached.
    """
    allowed = sum(layer.movement for layer in measured)
    chosen = [0] * len(measured)

    def moved(layer: int, step: int) -> float:
        return float(measured[layer].movement * SLACKS[step] ** exponent)

    spent = sum(moved(layer, 0) for layer in range(len(measured)))
    while True:
        best, gain = None, 0.0
        for layer, step in enumerate(chosen):
            for further in range(step + 1, len(SLACKS)):
                added = moved(layer, further) - moved(layer, step)
                saved = measured[layer].density[step] - measured[layer].density[further]
                if spent + added <= allowed and saved / max(added, 1e-12) > gain:
                    best, gain = (layer, further), saved / max(added, 1e-12)
        if best is None:
            return [SLACKS[step] for step in chosen]
        layer, further = best
        spent += moved(layer, further) - moved(layer, chosen[layer])
        chosen[layer] = further


class _Curves:
    """Adds up the density of every layer at every slack, from the scores of a dense run."""

    def __init__(self, model: Model, policy: Policy, density: Tensor) -> None:
        self.gates = model.gates
        self.policy = policy
        self.density = density

    def layer(self, layer: int, q: Tensor, k: Tensor, allowed: Allowed, scale: float) -> None:
        block = self.policy.block_for(allowed.keys)
        count = allowed.count(block)
        forced = rules.forced(allowed, self.policy, block, count)
        gate = self.gates[layer]
        score = gate(q, k, allowed, grid(allowed, block, pooled=gate.pooled))
        for index, slack in enumerate(SLACKS):
            gate.calibration = LayerSlack(slack=slack, pairwise=block == (1, 1))
            keep, _ = rules.mass(score, forced, count, gate.target(self.policy, block))
            kept = (keep * count).sum((1, 2, 3)) / count.expand_as(keep).sum((1, 2, 3))
            self.density[layer, index] += float(kept.mean())


class _Outcome:
    """What the model says after a dense run, to measure how far another run is from it."""

    def __init__(self, model: Model, states_BNE: Tensor) -> None:
        self.head = model.hf.get_output_embeddings() if model.causal else None
        self.states = states_BNE[0, ::EVERY]
        self.logs = None if self.head is None else self._logs(self.states)

    def distance(self, states_BNE: Tensor) -> float:
        states = states_BNE[0, ::EVERY]
        if self.logs is None:
            off = (states - self.states).float().square().sum()
            return float(off / self.states.float().square().sum())
        logs = self._logs(states)
        return float((self.logs.exp() * (self.logs - logs)).sum(-1).mean())

    def _logs(self, states: Tensor) -> Tensor:
        assert self.head is not None
        logs: Tensor = self.head(states).float().log_softmax(-1)
        return logs
