"""One way to run: whoever runs a text under a policy gets the same checks and the same second passes."""

import math

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import saa_core as saa
from saa_core.certify.degradation import DegradationMeter
from saa_core.guard import Inspection
from saa_core.run.execute import DENSE_BY_GUARD, execute
from saa_core.run.generate import generate, write_on
from saa_core.run.timing import measure

IDS = list(range(3, 63))
TEXT = " ".join(f"w{number}" for number in IDS)
GUARDED = saa.Policy(mass=0.5, local=1, sink=0, guard=saa.Guard(missed_mass=0.05, rows=40))


@pytest.fixture
def model(tiny):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{number}": number for number in range(97)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return saa.attach(tiny(), PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0"))


@pytest.fixture
def never_met(monkeypatch):
    """A guard that sees too late that its limit cannot be met."""
    monkeypatch.setattr(Inspection, "_look_ahead", lambda self, layer, worst_B: None)
    monkeypatch.setattr(Inspection, "_look", lambda self, layer, probe, decision, planned: (
        decision,
        torch.zeros(1),
    ))  # fmt: skip


@pytest.fixture
def passes(model):
    """Lengths of the forward passes of the model, in their order."""
    found: list[int] = []
    hook = model.hf.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: found.append(args[0].shape[1] if args else 0), with_kwargs=True
    )
    yield found
    hook.remove()


def test_a_pass_that_its_guard_cannot_vouch_for_is_done_again_densely(model, never_met, passes):
    found = execute(model, [IDS], GUARDED, "summary")
    assert (found.reruns, len(passes)) == (1, 2)
    assert found.rejected.policy == GUARDED
    assert found.call.kernel_reason == DENSE_BY_GUARD
    assert [event["suspected"] for event in found.events][-2:] == ["result", "bound"]
    torch.testing.assert_close(found.states, execute(model, [IDS]).states)


def test_every_way_to_run_a_text_does_it_again(model, never_met, passes):
    """Once sparse and once densely each; a meter runs the dense baseline besides."""
    ways = {
        "run": lambda: saa.run(model, TEXT, GUARDED),
        "generate": lambda: next(generate(model, TEXT, GUARDED)),
        "measure": lambda: measure(
            model, (), (GUARDED,), text=TEXT, repeats=1, warm_up=False
        ),
        "degradation": lambda: DegradationMeter(model, [TEXT], "missed_mass").of(GUARDED),
    }  # fmt: skip
    for name, way in ways.items():
        passes.clear()
        way()
        assert [length for length in passes if length > 1] == [len(IDS)] * 2, name


def test_a_timing_holds_the_second_pass(model, never_met):
    (timing,) = measure(model, (), (GUARDED,), text=TEXT, repeats=1, warm_up=False)
    assert {"gate", "rule", "dense"} <= set(timing.stages_ms)
    assert sum(timing.attention_ms) >= timing.stages_ms["dense"] + timing.stages_ms["gate"]


def test_what_a_second_pass_costs_is_work(model, never_met):
    found = DegradationMeter(model, [TEXT], "perplexity").of(GUARDED)
    assert found.losses == (pytest.approx(0.0, abs=1e-6),)
    assert found.work[0] > 1


@pytest.mark.parametrize("wrong", [{"layer": 2}, {"head": 4}, {"query": len(IDS)}])
def test_overrides_of_what_does_not_exist_are_refused_everywhere(model, wrong):
    policy = saa.Policy(mass=0.9, force=(saa.Force(**wrong),))
    ways = (
        lambda: saa.run(model, TEXT, policy),
        lambda: next(generate(model, TEXT, policy)),
        lambda: measure(model, (), (policy,), text=TEXT, repeats=1),
        lambda: DegradationMeter(model, [TEXT], "perplexity").of(policy),
        lambda: model.hf(torch.tensor([IDS]), saa=saa.Call(policy)),
    )
    ((name, value),) = wrong.items()
    for way in ways:
        with pytest.raises(saa.PolicyError, match=f"{name}={value} does not exist; choose 0 to"):
            way()


def test_writing_goes_on_from_a_kept_cache_without_reading_again(model, passes):
    found = execute(model, [IDS], saa.Policy(mass=0.8), keep_cache=True)
    first = "".join(write_on(model, found, 5))
    assert [length for length in passes if length > 1] == [len(IDS)]
    with pytest.raises(saa.ModelError, match="written on before"):
        next(write_on(model, found, 5))
    assert "".join(generate(model, TEXT, saa.Policy(mass=0.8), max_new_tokens=5)) == first
    with pytest.raises(saa.ModelError, match="keep_cache"):
        next(write_on(model, execute(model, [IDS]), 1))


def test_what_is_kept_in_full_is_what_transformers_computes(model):
    with torch.inference_mode():
        expected = model.hf.base_model(torch.tensor([IDS])).last_hidden_state[0]
    found = execute(model, [IDS], saa.Policy(mass=1.0))
    torch.testing.assert_close(found.states, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(execute(model, [IDS]).states, expected)
    assert math.isclose(float(found.means.sum()), float(expected.mean(0).sum()), rel_tol=1e-4)
