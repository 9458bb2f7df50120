"""Damage on purpose: it changes what the gates say, in a copy, and nothing else."""

import pytest
import torch

import saa_core as saa
from saa_core.explain.damage import KINDS, damage_gates


@pytest.mark.parametrize("kind", KINDS)
def test_the_damage_stays_in_the_copy(kind, smollm2, novel):
    text, policy = novel[:300], saa.Policy(mass=0.9)
    before = saa.run(smollm2, text, policy)
    broken = damage_gates(smollm2, kind)
    changed, dense = saa.run(broken, text, policy), saa.run(broken, text)
    after = saa.run(smollm2, text, policy)
    assert (after.hidden == before.hidden).all()
    assert not (changed.hidden == before.hidden).all()
    assert (dense.hidden == saa.run(smollm2, text).hidden).all()
    if kind == "zero":  # all keys look alike, and what ties is kept
        assert changed.density.mean() > 0.9 > before.density.mean()
    else:
        assert changed.retained_mass.mean() < before.retained_mass.mean()


def test_everything_but_the_gates_is_shared(smollm2):
    broken = damage_gates(smollm2, "negated")
    own = {name: weight for name, weight in broken.hf.named_parameters() if "saa_gate" in name}
    for name, weight in smollm2.hf.named_parameters():
        other = dict(broken.hf.named_parameters())[name]
        assert (other.data_ptr() == weight.data_ptr()) == (name not in own), name
    assert broken.hf.get_output_embeddings().weight is smollm2.hf.get_output_embeddings().weight


def test_damage_may_be_kept_to_some_layers_and_repeats(minilm):
    broken = damage_gates(minilm, "random", seed=3, layers=[1])
    again = damage_gates(minilm, "random", seed=3, layers=[1])
    other = damage_gates(minilm, "random", seed=4, layers=[1])
    assert torch.equal(broken.gates[0].query, minilm.gates[0].query)
    assert not torch.equal(broken.gates[1].query, minilm.gates[1].query)
    assert torch.equal(broken.gates[1].query, again.gates[1].query)
    assert not torch.equal(broken.gates[1].query, other.gates[1].query)


def test_an_unknown_kind_or_layer_is_refused(minilm):
    with pytest.raises(saa.PolicyError, match=r"kind='bent'.*negated"):
        damage_gates(minilm, "bent")
    with pytest.raises(saa.PolicyError, match="0 to 5"):
        damage_gates(minilm, "zero", layers=[6])
