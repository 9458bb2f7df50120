"""Gates damaged on purpose, to see what a broken gate does with and without a guard.

A damaged model is another model: it has gates of its own and shares everything else, so that the one it
was made of goes on as it was, also while both run.
"""

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import chain

import torch

from saa_core.errors import PolicyError, choice
from saa_core.gates.pair import PairGate
from saa_core.model import Model

SCALE = 1e4
"""What "scaled" multiplies every weight with."""


def _random(gate: PairGate, draw: torch.Generator) -> None:
    for weight in gate.parameters():
        noise = torch.randn(weight.shape, dtype=weight.dtype, generator=draw)
        weight.copy_(noise * weight.std().cpu())


def _zero(gate: PairGate, draw: torch.Generator) -> None:
    for weight in gate.parameters():
        weight.zero_()


def _nan(gate: PairGate, draw: torch.Generator) -> None:
    for weight in gate.parameters():
        weight.fill_(math.nan)


def _negate(gate: PairGate, draw: torch.Generator) -> None:
    gate.query.neg_()


def _scale(gate: PairGate, draw: torch.Generator) -> None:
    for weight in gate.parameters():
        weight.mul_(SCALE)


EACH: dict[str, Callable[[PairGate, torch.Generator], None]] = {
    "random": _random,
    "zero": _zero,
    "nan": _nan,
    "negated": _negate,
    "scaled": _scale,
}
KINDS = (*EACH, "swapped")
"""random: numbers of the same spread; negated: the queries' side alone, so that what was best is worst;
swapped: the first layer has the gate of the last one, and so on."""


def damage_gates(
    model: Model, kind: str, seed: int = 0, *, layers: Collection[int] | None = None
) -> Model:
    """A model with damaged gates that shares every other weight with ``model``, which is not changed.

    Args:
        kind: one of KINDS.
        seed: of "random".
        layers: whose gates are damaged; all by default.

    Raises:
        PolicyError: the kind is not known, or a layer does not exist.
    """
    if kind not in KINDS:
        raise PolicyError(choice("kind", kind, KINDS))
    count = len(model.gates)
    chosen = range(count) if layers is None else sorted(set(layers))
    if any(not 0 <= layer < count for layer in chosen):
        raise PolicyError(f"layers={layers!r}: choose from 0 to {count - 1}")
    found = _with_own_gates(model)
    draw = torch.Generator().manual_seed(seed)
    for gate in found.gates:
        gate.damaged = True
    with torch.no_grad():
        for layer in chosen:
            if kind == "swapped":
                found.gates[layer].load_state_dict(model.gates[count - 1 - layer].state_dict())
            else:
                EACH[kind](found.gates[layer], draw)
    return found


def _with_own_gates(model: Model) -> Model:
    """The same model with copies of its gates; all other tensors are shared."""
    own = {id(weight) for gate in model.gates for weight in gate.parameters()}
    tensors = chain(model.hf.parameters(), model.hf.buffers())
    shared = {id(tensor): tensor for tensor in tensors if id(tensor) not in own}
    return replace(model, hf=copy.deepcopy(model.hf, shared))
