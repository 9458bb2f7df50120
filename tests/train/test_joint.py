"""Joint training: the weights stay, the adapter learns, resumes exactly, ships and merges."""

import json
from dataclasses import replace

import pytest
import torch

import saa_core as saa
from saa_core.families.recompute import recomputed
from saa_core.gates.files import read_gates
from saa_core.kernels import KERNELS
from saa_core.run.execute import forward
from saa_core.train.evaluate import evaluate
from saa_core.train.joint import _add_adapter, _divergence
from tests.train.test_train import WORDS, Letters

CONFIG = {"lengths": (256,), "rank": 4, "rate": 2e-3, "masses": (0.5, 0.5), "save_every": 3}
TEXTS = {"letters": WORDS * 20}
POLICY = saa.Policy(mass=0.5, granularity="block")


@pytest.fixture
def toy(tiny):
    """A small model whose attention matters, unlike that of freshly drawn weights."""

    def make() -> saa.Model:
        torch.manual_seed(0)
        hf = tiny()
        with torch.no_grad():
            for name, parameter in hf.named_parameters():
                if "self_attn" in name:
                    parameter.mul_(6)
            hf.lm_head.weight.mul_(6)
        return saa.attach(hf, Letters(), rank=8)

    return make


def divergence(model: saa.Model, truth: torch.Tensor, ids: torch.Tensor) -> float:
    with torch.inference_mode():
        head = model.hf.get_output_embeddings()
        found = head(forward(model, ids, saa.Call(POLICY))).log_softmax(-1)
    return float((truth.exp() * (truth - found)).sum(-1).mean())


def dense_logs(model: saa.Model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.hf.get_output_embeddings()(forward(model, ids, saa.Call())).log_softmax(-1)


@pytest.mark.slow
def test_the_sparse_model_comes_closer_to_the_dense_one_and_its_weights_stay(toy):
    model = toy()
    ids = torch.tensor([model.tokenize(WORDS * 5)[:256]])
    truth = dense_logs(model, ids)
    weights = {name: value.clone() for name, value in model.hf.named_parameters()}
    before = divergence(model, truth, ids)
    config = saa.JointConfig(steps=100, positions=64, rows=32, **CONFIG)
    steps = list(saa.train_joint(model, TEXTS, config))
    assert [step.step for step in steps] == list(range(1, 101))
    after = divergence(model, truth, ids)
    assert after < 0.7 * before, (before, after)
    for name, value in model.hf.named_parameters():
        name = name.replace(".base_layer", "")
        if ".lora_" not in name and "saa_gate" not in name:
            assert torch.equal(value, weights[name]), name
    assert not any(p.requires_grad for gate in model.gates for p in gate.parameters())


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(toy, tmp_path):
    whole = toy()
    list(saa.train_joint(whole, TEXTS, saa.JointConfig(steps=6, **CONFIG)))
    folder = str(tmp_path / "checkpoint")
    config = saa.JointConfig(steps=6, checkpoint=folder, **CONFIG)
    for step in saa.train_joint(toy(), TEXTS, config):
        if step.step == 4:
            break
    again = toy()
    steps = list(saa.train_joint(again, TEXTS, config))
    assert [step.step for step in steps] == [4, 5, 6]
    pairs = zip(whole.hf.named_parameters(), again.hf.named_parameters(), strict=True)
    for (name, expected), (_, found) in pairs:
        torch.testing.assert_close(found, expected, msg=name)
    other = saa.JointConfig(steps=6, checkpoint=folder, **CONFIG | {"rank": 8})
    with pytest.raises(saa.GateError, match="another folder or the same configuration"):
        list(saa.train_joint(toy(), TEXTS, other))


def test_an_adapter_is_saved_and_merged_into_another_model(toy, tmp_path, smollm2):
    model = toy()
    original = tmp_path / "model"
    saa.detach(model).save_pretrained(original)
    model = saa.attach(model.hf, Letters(), rank=8)
    list(saa.train_joint(model, TEXTS, saa.JointConfig(steps=6, **CONFIG)))
    folder = saa.save_adapter(model, tmp_path / "mine", training={"command": "test"})
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    ids = torch.tensor([model.tokenize(WORDS)[:64]])
    smollm2.tokenizer.save_pretrained(original)
    merged = saa.load(str(original), adapter=folder)
    assert merged.spec.adapter == "mine"
    assert merged.spec.title.endswith(" + mine")
    assert merged.spec.trained
    assert merged.spec.evaluation == {}
    assert not any("lora" in name for name, _ in merged.hf.named_parameters())
    with torch.inference_mode():
        expected, found = (forward(m, ids, saa.Call(POLICY)) for m in (model, merged))
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)  # kept in float16
    namesake = saa.save_adapter(model, tmp_path / "saa-joint", training={"command": "test"})
    with pytest.raises(saa.SAAError, match="saa-joint"):  # not the shipped one of that name
        saa.load("smollm2", adapter=namesake)
    plain = saa.load(str(original))
    assert not torch.allclose(dense_logs(plain, ids), dense_logs(merged, ids))


def test_a_saved_adapter_is_where_another_run_starts(toy, tmp_path):
    model = toy()
    list(saa.train_joint(model, TEXTS, saa.JointConfig(steps=6, **CONFIG)))
    folder = saa.save_adapter(model, tmp_path / "mine", training={"command": "test"})
    config = saa.JointConfig(steps=1, start=str(folder), **CONFIG | {"rate": 1e-9})
    again = toy()
    list(saa.train_joint(again, TEXTS, config))
    ids = torch.tensor([model.tokenize(WORDS)[:64]])
    with torch.inference_mode():
        expected, found = (forward(m, ids, saa.Call(POLICY)) for m in (model, again))
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)  # kept in float16
    for change in ({"start": str(tmp_path / "nothing")}, {"start": str(folder), "rank": 8}):
        with pytest.raises(saa.GateError, match=change["start"]):
            next(saa.train_joint(toy(), TEXTS, saa.JointConfig(steps=1, **CONFIG | change)))


def test_the_hardest_positions_are_those_where_the_two_differ_most(toy):
    """With as many hard positions as there are, every position counts; one alone is the worst."""
    model = toy()
    ids = torch.tensor([model.tokenize(WORDS * 5)[:256]])
    _add_adapter(model, saa.JointConfig(steps=1, **CONFIG))
    none = torch.tensor([], dtype=torch.long)
    with torch.no_grad():
        everywhere = torch.arange(256)
        by_count = [
            float(_divergence(model, ids, none, everywhere, hard, saa.Call(POLICY)))
            for hard in (1, 8, 256)
        ]
        every = float(_divergence(model, ids, everywhere, none, 0, saa.Call(POLICY)))
    assert by_count[0] > by_count[1] > by_count[2] > 0
    assert every == pytest.approx(by_count[2], rel=1e-4)


@pytest.mark.parametrize("name", ["gather", "reference"])
def test_gradients_are_those_of_the_kernel(toy, name):
    """Forwards the fastest kernel runs, and what the gradients need is computed on the way back; a
    kernel that is asked for by name is the one that runs."""
    model = toy()
    ids = torch.tensor([model.tokenize(WORDS * 5)[:96]])
    granularity = {"gather": "block", "reference": "pair"}[name]
    policy = saa.Policy(mass=0.6, granularity=granularity, block=(16, 8))
    call = saa.Call(policy)
    model.hf.requires_grad_(True)
    found = forward(model, ids, call)
    found.square().sum().backward()
    got = {n: p.grad.clone() for n, p in model.hf.named_parameters() if "q_proj" in n}
    model.hf.zero_grad()
    plain = KERNELS[name]
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        patch.setitem(KERNELS, name, lambda *inputs: calls.append(name) or plain(*inputs))
        expected = forward(model, ids, saa.Call(replace(policy, kernel=name)))
        assert len(calls) == len(model.gates)
    assert call.kernel == name
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    expected.square().sum().backward()
    assert got
    for n, p in model.hf.named_parameters():
        if n in got:
            torch.testing.assert_close(got[n], p.grad, rtol=1e-3, atol=1e-4)


def test_gates_with_finer_rows_are_saved_and_loaded(toy, tmp_path):
    model = toy()
    config = saa.JointConfig(steps=2, pooled=4, positions=32, rows=32, **CONFIG)
    list(saa.train_joint(model, TEXTS, config))
    saa.save_adapter(model, tmp_path / "fine")
    fine, coarse = toy(), toy()
    for gates in (fine.gates, coarse.gates):
        read_gates(tmp_path / "fine" / "gates").fill(gates)
    assert {gate.pooled for gate in fine.gates} == {4}
    for gate in coarse.gates:
        gate.config = replace(gate.config, pooled=16)
    ids = torch.tensor([fine.tokenize(WORDS * 5)[:256]])
    calls = [saa.Call(POLICY, record="full") for _ in range(2)]
    for model, call in zip((fine, coarse), calls, strict=True):
        with torch.inference_mode():
            forward(model, ids, call)
    first, second = (call.layers[0].predicted_mass for call in calls)
    assert first.shape == second.shape
    assert not torch.allclose(first, second), "other rows see other things"


def test_what_cannot_be_used_is_refused(toy, tiny, tmp_path, smollm2):
    with pytest.raises(saa.ModelError, match=r"adapter='nothing'.*shipped: "):
        saa.load("smollm2", adapter="nothing")
    model = toy()
    list(saa.train_joint(model, TEXTS, saa.JointConfig(steps=1, **CONFIG)))
    folder = saa.save_adapter(model, tmp_path / "tiny", training={"command": "test"})
    with pytest.raises((saa.ModelError, saa.GateError), match="tiny"):
        saa.load("smollm2", adapter=folder)
    with pytest.raises(saa.ModelError, match="encoder"):
        next(saa.train_joint(saa.attach(tiny("bert"), Letters()), TEXTS))
    with pytest.raises(saa.ModelError, match="q_proj"):
        next(saa.train_joint(saa.attach(tiny("gpt2"), Letters()), TEXTS))
    for bad in ({"masses": (0.9, 0.5)}, {"rank": 0}, {"hard": -1}, {"rate": 2.0}, {"lengths": ()}):
        with pytest.raises(saa.PolicyError, match=next(iter(bad))):
            saa.JointConfig(**bad)


def test_the_shipped_adapter_costs_less_than_the_gate_alone(smollm2, novel):
    """On a novel that neither was trained on, in blocks, counted from the original dense model."""
    joint = saa.load("smollm2", adapter="saa-joint")
    assert joint.spec.title == "smollm2 + saa-joint"
    policy = saa.Policy(mass=0.8, granularity="block")
    (alone,) = evaluate(smollm2, novel, "novel", 700, [policy], windows=2)
    (together,) = evaluate(joint, novel, "novel", 700, [policy], windows=2, baseline=smollm2)
    assert together.ppl_dense == alone.ppl_dense
    assert together.ppl_increase_pct < 0.8 * alone.ppl_increase_pct
    assert abs(together.density - alone.density) < 0.05
    assert saa.run(joint, TEXTS["letters"][:200]).model.name == "smollm2 + saa-joint"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_that_are_computed_again_change_nothing(toy, dtype):
    """The way that a GPU with little memory takes, gates learning inside the layers included."""
    found = []
    for recompute in (False, True):
        model = toy()
        model.hf.to(dtype)
        for gate in model.gates:
            gate.float()
        config = saa.JointConfig(steps=2, positions=32, rows=32, recompute=recompute, **CONFIG)
        steps = [
            (step.divergence, step.gate_loss) for step in saa.train_joint(model, TEXTS, config)
        ]
        modes = [module.training for module in model.hf.modules()]
        learned = {n: p.clone() for n, p in model.hf.named_parameters() if "lora" in n}
        found.append((steps, learned, modes))
    (held, weights, before), (again, others, after) = found
    assert before == after, "no layer was left in training mode"
    near = 1e-5 if dtype == torch.float32 else 2e-2
    for one, other in zip(held, again, strict=True):
        assert other == pytest.approx(one, rel=near)
    assert any(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=near, atol=near)


def test_a_model_that_cannot_compute_again_is_named():
    with (
        pytest.raises(saa.ModelError, match="recompute: Linear has no layers"),
        recomputed(torch.nn.Linear(2, 2)),
    ):
        pass
