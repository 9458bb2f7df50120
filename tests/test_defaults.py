"""What a policy leaves open is filled in where a call meets a model and a text: the tail of a prompt."""

from dataclasses import asdict, replace

import pytest
import torch

import saa_core as saa
from saa_core.types import DEFAULT_TAIL, PAIR_LIMIT

LONG = torch.arange(PAIR_LIMIT + 90)[None] % 90 + 3
SHORT = LONG[:, :PAIR_LIMIT]
TAIL = saa.REASONS.index("tail")


@torch.no_grad()
def recorded(hf: torch.nn.Module, ids: torch.Tensor, policy: saa.Policy) -> saa.Trace:
    call = saa.Call(policy, record="full")
    hf(ids, saa=call)
    return call.trace()


@pytest.mark.parametrize("granularity", ["auto", "pair", "block"])
def test_the_end_of_a_long_prompt_is_read_densely_by_default(tiny, granularity):
    hf = tiny("llama")
    saa.attach(hf)
    policy = saa.Policy(mass=0.3, granularity=granularity)
    trace = recorded(hf, LONG, policy)
    assert trace.policy == replace(policy, tail=DEFAULT_TAIL)
    assert str(trace.policy) == "mass 0.3, tail 64"
    assert trace.keep_map(1, 2)[-DEFAULT_TAIL:].sum() == trace.allowed(1)[-DEFAULT_TAIL:].sum()
    assert not trace.keep_map(1, 2)[:-100].all()
    assert TAIL in trace.reason_map(1, 2)[-DEFAULT_TAIL:]
    assert TAIL not in trace.reason_map(1, 2)[: -DEFAULT_TAIL - 32]
    short = recorded(hf, SHORT, policy)
    assert short.policy == replace(policy, tail=0)
    assert TAIL not in short.reason_map(1, 2)


@torch.no_grad()
def test_what_is_asked_for_is_the_tail(tiny):
    hf = tiny("llama")
    saa.attach(hf)
    for tail in (0, 3):
        trace = recorded(hf, LONG, saa.Policy(mass=0.3, tail=tail))
        assert trace.policy.tail == tail
        assert (TAIL in trace.reason_map(0, 0)) == (tail > 0)


def test_an_encoder_has_no_tail(tiny):
    hf = tiny("bert")
    saa.attach(hf)
    assert recorded(hf, LONG, saa.Policy(mass=0.3)).policy.tail == 0


@torch.no_grad()
def test_what_is_written_behind_a_long_prompt_sees_it_all(tiny):
    """One more token over the cache is the end of the text, as it is where the text is read anew."""
    hf = tiny("llama")
    saa.attach(hf)
    cache = hf(LONG, use_cache=True).past_key_values
    step = saa.Call(saa.Policy(mass=0.3), record="full")
    hf(LONG[:, :1], past_key_values=cache, saa=step)
    assert step.trace().density.min() == 1
    cache = hf(SHORT[:, :300], use_cache=True).past_key_values
    step = saa.Call(saa.Policy(mass=0.3, local=1), record="full")
    hf(LONG[:, :1], past_key_values=cache, saa=step)
    assert step.trace().density.mean() < 1, "a short text has no tail"


def test_a_stored_policy_keeps_its_meaning(tiny, tmp_path):
    hf = tiny("llama")
    model = saa.attach(hf)
    about = asdict(saa.Policy(mass=0.4, tail=0))
    assert saa.Policy.stored(about) == saa.Policy(mass=0.4, tail=0)
    del about["tail"]
    assert saa.Policy.stored(about).tail == 0, "written before there was a tail"
    assert saa.Policy.stored(asdict(saa.Policy())).tail is None
    trace = recorded(hf, LONG, saa.Policy(mass=0.3))
    assert saa.Trace.load(trace.save(tmp_path / "t.saa")).policy.tail == DEFAULT_TAIL
    saa.save_gates(model, tmp_path / "gates", policy=saa.Policy(mass=0.4, tail=5))
    saa.detach(model)
    assert saa.attach(hf, gates=tmp_path / "gates").spec.policy == saa.Policy(mass=0.4, tail=5)


def test_the_shipped_language_models_leave_the_tail_to_the_default():
    from saa_core.data import fetch
    from saa_core.gates.files import read_gates

    for folder in ("gates/smollm2", "adapters/smollm2/saa-joint/gates"):
        stored = read_gates(fetch.assets() / folder)
        assert saa.Policy.stored(stored.about["policy"]).tail is None
