"""Rules without training stand where a gate stands, and are asked like one."""

import pytest
import torch

import saa_core as saa
from benchmarks.quality.baselines import SCORERS, restore, swap


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_is_asked_in_the_place_of_a_gate(tiny, name):
    model = saa.attach(tiny())
    modules = [module for module in model.hf.modules() if hasattr(module, "saa_gate")]
    gates = swap(modules, name)
    ids = torch.arange(3, 67)[None]
    call = saa.Call(
        saa.Policy(budget=0.5, granularity="block", block=(8, 8), sink=1, local=1), "summary"
    )
    model.hf(ids, saa=call)
    assert all(0.2 < float(record.density.mean()) < 0.8 for record in call.layers.values())
    restore(modules, gates)
    assert [module.saa_gate for module in modules] == gates
