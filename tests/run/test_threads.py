"""One model for many threads: whatever the others ask for at that moment, a run gives what it gives alone."""

import itertools
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

import saa_core as saa
from saa_core.explain.damage import KINDS, damage_gates
from saa_core.model import Model
from saa_core.run.execute import execute

THREADS, RUNS = 8, 50
TEXTS = tuple(
    tuple((7 * step + 3) % 97 for step in range(start, start + 40)) for start in (0, 11, 29)
)
POLICIES = (
    None,
    saa.Policy(mass=1.0),
    saa.Policy(mass=0.7, granularity="pair", sink=1, local=2),
    saa.Policy(mass=0.5, block=(16, 16), sink=0, local=1, kernel="gather"),
    saa.Policy(budget=0.4, granularity="pair", kernel="reference"),
    saa.Policy(budget=0.6, block=(8, 8), budget_over="call", tail=4),
    saa.Policy(mass=0.6, block=(8, 8), guard=saa.Guard(0.3, seed=5)),
    saa.Policy(mass=0.3, block=(8, 8), sink=0, local=1, guard=saa.Guard(0.05)),
    saa.Policy(mass=0.8, block=(8, 8), force=(saa.Force(keep=False, layer=1, head=2),)),
)


@dataclass(frozen=True)
class Ask:
    """One run: gates as attached (damage None) or damaged just before, a policy, a text."""

    damage: str | None
    policy: saa.Policy | None
    text: int


@pytest.fixture
def restless():
    """Threads that take turns as often as they can; each computes with one of PyTorch's own."""
    before, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-5)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(before)
    torch.set_num_threads(threads)


def run(model: Model, ask: Ask) -> tuple[torch.Tensor, ...]:
    """Everything that a run gives, as tensors: states, what each layer kept, what a guard did."""
    if ask.damage is not None:
        model = damage_gates(model, ask.damage, seed=2)
    found = execute(model, [TEXTS[ask.text]], ask.policy, "summary")
    kept = [record.density for _, record in sorted(found.call.layers.items())]
    events = [
        event.get("measured") or 0.0 for event in found.events if event.get("added") is not None
    ]
    return (found.states, *kept, torch.tensor([found.reruns, *events], dtype=torch.float64))


@pytest.mark.slow
def test_eight_threads_with_different_policies_gates_and_damages_give_what_one_gives(
    tiny, restless
):
    attached = saa.attach(tiny())
    torch.manual_seed(1)
    with torch.no_grad():
        for gate in attached.gates:
            gate.distance.normal_()
    asks = [
        Ask(*each)
        for each in itertools.product((None, None, *KINDS), POLICIES, range(len(TEXTS)))
        if each[1] is not None or each[0] is None
    ]
    expected = {ask: run(attached, ask) for ask in asks}
    different = {tuple(found[0][-1, :4].tolist()) for found in expected.values()}
    assert len(different) > len(TEXTS) * len(POLICIES), "the runs differ, or nothing is tested"
    start = threading.Barrier(THREADS)

    def work(seed: int) -> int:
        draw, done = random.Random(seed), 0
        start.wait()
        for ask in draw.choices(asks, k=RUNS):
            for got, want in zip(run(attached, ask), expected[ask], strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
            done += 1
        return done

    with ThreadPoolExecutor(THREADS) as threads:
        assert sum(threads.map(work, range(THREADS))) == THREADS * RUNS
