"""Gates of a seed are the same ones, also while other threads draw numbers; and nobody's numbers change."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import saa_core as saa
from saa_core.explain.damage import damage_gates
from saa_core.gates.token import fresh_linear
from saa_core.task import add_token_gates


@pytest.fixture
def restless():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def token_gates() -> torch.Tensor:
    layers = [SimpleNamespace(module=nn.Linear(1, 1)) for _ in range(5)]
    gates = add_token_gates(SimpleNamespace(layers=layers), 16, 4)
    return torch.cat([weight.flatten() for gate in gates for weight in gate.parameters()])


def test_gates_of_a_seed_do_not_depend_on_other_threads(tiny, restless):
    model = saa.attach(tiny(), probe=False)

    def damaged() -> torch.Tensor:
        gates = damage_gates(model, "random", seed=3).gates
        return torch.cat([weight.flatten() for gate in gates for weight in gate.parameters()])

    def work(number: int) -> list[torch.Tensor]:
        make = damaged if number % 2 else token_gates
        return [make() for _ in range(10)]

    alone = token_gates(), damaged()
    state = torch.get_rng_state()
    with ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(work, range(8))):
            for gates in found:
                assert torch.equal(gates, alone[number % 2])
    # token_gates itself makes layers for its gates to stand in; the damaged ones draw nothing.
    torch.set_rng_state(state)
    damaged()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_of_a_seed_is_the_one_that_pytorch_makes():
    for inputs, outputs in ((384, 32), (32, 1)):
        torch.manual_seed(7)
        usual = nn.Linear(inputs, outputs)
        own = fresh_linear(inputs, outputs, torch.Generator().manual_seed(7))
        assert torch.equal(own.weight, usual.weight)
        assert torch.equal(own.bias, usual.bias)
