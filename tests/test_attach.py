"""Attaching to a user's model, every supported architecture: nothing changes until it is asked for."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig

import saa_core as saa
from saa_core.cli.doctor import examine
from saa_core.gates.files import read_gates
from saa_core.loading import bfloat16_is_fast
from tests.conftest import CONFIGS, TINY

IDS = torch.arange(3, 83)[None] % 97
TEXTS = ["low", "high"]


def padded_batch(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two texts of 70 and 50 tokens in one batch, padded on a side."""
    ids = torch.randint(3, 97, (2, 70))
    mask = torch.ones_like(ids)
    if side == "left":
        mask[1, :20] = 0
    else:
        mask[1, 50:] = 0
    return ids, mask


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_attached_without_policy_is_bit_equal(tiny, architecture, implementation):
    hf = tiny(architecture)
    hf.set_attn_implementation(implementation)
    ids, mask = padded_batch("left")
    before = [hf(IDS).logits, hf(ids, attention_mask=mask).logits]
    names = set(hf.state_dict())
    model = saa.attach(hf)
    after = [hf(IDS).logits, hf(ids, attention_mask=mask).logits]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    added = set(hf.state_dict()) - names
    assert added
    assert all(".saa_gate." in name for name in added)
    saa.detach(model)
    assert set(hf.state_dict()) == names
    assert hf.config._attn_implementation == implementation
    assert torch.equal(hf(IDS).logits, before[0])


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("kernel", ["reference", "gather", "auto"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_mass_one_equals_dense_in_a_padded_batch(tiny, architecture, kernel, side):
    hf = tiny(architecture)
    ids, mask = padded_batch(side)
    expected = hf(ids, attention_mask=mask).logits
    saa.attach(hf)
    for granularity in ("pair", "block"):
        call = saa.Call(saa.Policy(mass=1.0, kernel=kernel, granularity=granularity))
        found = hf(ids, attention_mask=mask, saa=call).logits
        real = mask.bool()
        error = (found - expected)[real].norm() / expected[real].norm()
        assert error < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_does_not_change_the_decision_pair_by_pair(tiny, side):
    hf = tiny()
    saa.attach(hf)
    ids, mask = padded_batch(side)
    policy = saa.Policy(mass=0.5, granularity="pair")
    alone = saa.Call(policy, record="full")
    real = mask[1].bool()
    expected = hf(ids[1:, real], saa=alone).logits[0]
    together = saa.Call(policy, record="full")
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # as generate() numbers a padded batch
    found = hf(ids, attention_mask=mask, position_ids=positions, saa=together).logits[1, real]
    assert (found - expected).norm() / expected.norm() < 1e-4
    inside = torch.where(real)[0].numpy()
    for head in range(4):
        whole = together.trace(1).keep_map(1, head)[inside][:, inside]
        assert (whole == alone.trace().keep_map(1, head)).all()


@torch.no_grad()
def test_a_lower_mass_computes_less_and_changes_the_output(tiny):
    hf = tiny()
    saa.attach(hf)
    densities, outputs = [], []
    for mass in (1.0, 0.7, 0.3):
        call = saa.Call(saa.Policy(mass=mass, sink=1, local=2), record="summary")
        outputs.append(hf(IDS, saa=call).logits)
        densities.append(call.trace().density.mean())
    assert densities[0] == 1.0
    assert densities[0] > densities[1] > densities[2]
    assert not torch.allclose(outputs[0], outputs[2])


@torch.no_grad()
def test_two_policies_share_one_model_without_a_trace_of_each_other(tiny):
    hf = tiny()
    saa.attach(hf)
    one, other = saa.Policy(mass=0.4), saa.Policy(mass=0.9)
    first = hf(IDS, saa=saa.Call(one)).logits
    hf(IDS, saa=saa.Call(other))
    assert torch.equal(hf(IDS, saa=saa.Call(one)).logits, first)


@torch.no_grad()
def test_the_future_stays_hidden(tiny):
    """A later token in another block of queries cannot reach an earlier position."""
    hf = tiny()
    saa.attach(hf)
    changed = IDS.clone()
    changed[0, 64:] = 5
    for granularity, seen in (("pair", 64), ("block", 64)):
        policy = saa.Policy(mass=0.6, granularity=granularity)
        first = hf(IDS, saa=saa.Call(policy)).logits[:, :seen]
        second = hf(changed, saa=saa.Call(policy)).logits[:, :seen]
        assert torch.allclose(first, second, atol=1e-5)


@torch.no_grad()
def test_sliding_windows_are_honoured(tiny):
    hf = tiny("mistral", sliding_window=16)
    expected = hf(IDS).logits
    saa.attach(hf)
    call = saa.Call(saa.Policy(mass=1.0), record="full")
    found = hf(IDS, saa=call).logits
    assert (found - expected).norm() / expected.norm() < 1e-4
    trace = call.trace()
    assert trace.allowed(0)[60].sum() == 16


def test_an_unsupported_model_is_refused_with_the_supported_ones():
    hf = AutoModelForCausalLM.from_config(FalconConfig(**TINY))
    with pytest.raises(saa.ModelError, match=r"falcon.*bert, distilbert, gpt2, llama, mistral"):
        saa.attach(hf)


def test_fresh_gates_are_the_same_each_time_and_leave_the_random_numbers_alone(tiny):
    hf = tiny()
    state = torch.get_rng_state()
    model = saa.attach(hf)
    assert torch.equal(torch.get_rng_state(), state)
    first = [value.clone() for gate in model.gates for value in gate.parameters()]
    torch.rand(7)
    again = saa.attach(saa.detach(model))
    second = [value for gate in again.gates for value in gate.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_attaching_twice_is_refused(tiny):
    hf = tiny()
    saa.attach(hf)
    with pytest.raises(saa.ModelError, match="detach"):
        saa.attach(hf)


def test_a_wrong_saa_argument_is_refused(tiny):
    hf = tiny()
    saa.attach(hf)
    with pytest.raises(saa.ModelError, match="saa="):
        hf(IDS, saa=saa.Policy())


def test_gates_come_back_from_disk(tiny, tmp_path):
    hf = tiny()
    model = saa.attach(hf)
    with torch.no_grad():
        for gate in model.gates:
            gate.distance.normal_()
    folder = saa.save_gates(model, tmp_path / "mine", training={"command": "by hand"})
    state = {name: value.clone() for name, value in model.gates[1].state_dict().items()}
    saa.detach(model)
    again = saa.attach(hf, gates=folder)
    assert again.spec.gate == "mine"
    assert again.spec.trained
    for name, value in again.gates[1].state_dict().items():
        torch.testing.assert_close(value, state[name].half().float())


def test_gates_of_another_shape_are_refused(tiny, tmp_path):
    folder = saa.save_gates(saa.attach(tiny()), tmp_path / "mine")
    with pytest.raises(saa.GateError, match="3 layers of 4 heads"):
        saa.attach(tiny(num_hidden_layers=3), gates=folder)


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "format"])
def test_broken_gate_folders_are_refused_and_leave_the_model_alone(tiny, tmp_path, damage):
    folder = saa.save_gates(saa.attach(tiny()), tmp_path / "mine")
    weights, about = folder / "gates.safetensors", folder / "gates.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "foreign":
        stranger = saa.attach(tiny())
        stranger.gates[0].first.add_(1)
        other = saa.save_gates(stranger, tmp_path / "other")
        weights.write_bytes((other / "gates.safetensors").read_bytes())
    else:
        about.write_text(json.dumps(json.loads(about.read_text()) | {"format": 99}))
    hf = tiny()
    with pytest.raises(saa.GateError):
        saa.attach(hf, gates=folder)
    assert hf.config._attn_implementation == "sdpa"
    assert not any("saa_gate" in name for name in hf.state_dict())


def test_shipped_gates_are_trained_small_and_say_where_they_come_from():
    from saa_core.data import fetch

    folder = fetch.assets() / "gates" / "smollm2"
    stored = read_gates(folder)
    assert stored.trained
    assert (folder / "gates.safetensors").stat().st_size < 8e6
    assert stored.about["training"]["command"].startswith("saa train")
    hashes = stored.about["training"]["data_sha256"]
    assert set(hashes) == {"austen", "code", "jargon", "manual", "reviews"}
    assert all(len(digest) == 64 for digest in hashes.values())
    quality = stored.about["evaluation"]["quality"]
    assert {row["length"] for row in quality} >= {512, 1024, 2048}


def test_load_refuses_what_it_cannot_find(tmp_path):
    with pytest.raises(saa.ModelError, match="smollm2"):
        saa.load(str(tmp_path / "nowhere"))
    with pytest.raises(saa.ModelError, match="choose one of"):
        saa.load("smollm2", device="abacus")


@torch.no_grad()
def test_a_short_text_falls_back_to_dense_where_asked_and_says_so(tiny):
    hf = tiny("llama")
    expected = hf(IDS).logits
    saa.attach(hf)
    policy = saa.Policy(mass=0.5, sink=1, local=1, fallback="dense", crossover=IDS.shape[1] + 1)
    call = saa.Call(policy, record="full")
    torch.testing.assert_close(hf(IDS, saa=call).logits, expected)
    trace = call.trace()
    assert (call.used, trace.policy, trace.density.min()) == (None, None, 1.0)
    assert trace.execution.kernel == "dense"
    assert "crossover of 81" in trace.execution.reason
    longer = saa.Call(dataclasses.replace(policy, crossover=IDS.shape[1]), record="full")
    hf(IDS, saa=longer)
    assert longer.used is not None
    assert longer.trace().density.mean() < 1
    with pytest.raises(saa.PolicyError, match=r"fallback='slow'.*dense, never"):
        saa.Policy(fallback="slow")


@torch.no_grad()
def test_half_precision_weights_decide_and_attend_in_float32(tiny):
    hf = tiny("llama").to(torch.bfloat16)
    expected = hf(IDS).logits
    saa.attach(hf)
    for policy in (saa.Policy(mass=1.0), saa.Policy(fallback="dense")):
        found = hf(IDS, saa=saa.Call(policy)).logits
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    seen = []
    policy = saa.Policy(mass=0.6)
    hf(IDS, saa=saa.Call(policy, observe=lambda _l, q, *_: seen.append(q.dtype)))
    assert seen


@pytest.mark.slow  # the doctor compiles for the processor that is feigned
@pytest.mark.parametrize(("capability", "fast"), [("AVX512", True), ("AVX2", False)])
def test_bfloat16_is_fast_only_where_the_cpu_can_do_it(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert bfloat16_is_fast(torch.device("cpu")) is fast
    assert [found.ok for found in examine("cpu") if found.name == "bfloat16"] == [fast]
