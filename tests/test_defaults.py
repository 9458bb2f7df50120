"""What a policy leaves open is filled in where a call meets a model and a text: the tail of a prompt, and
which mass."""

import json
from dataclasses import asdict, replace

import pytest
import torch

import saa_core as saa
from saa_core.data import fetch
from saa_core.gates.defaults import MassEntry, MassTable
from saa_core.gates.files import read_gates
from saa_core.run.varlen import encode
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
    for folder in ("gates/smollm2", "adapters/smollm2/saa-joint/gates"):
        stored = read_gates(fetch.assets() / folder)
        assert saa.Policy.stored(stored.about["policy"]).tail is None


TABLE = MassTable(
    (
        MassEntry(512, (1, 1), 0.9),
        MassEntry(1024, (32, 16), 0.8),
        MassEntry(4096, (32, 16), 0.6),
        MassEntry(1024, (128, 64), 0.99),
    ),
    {"command": "saa masses"},
)


def test_between_calibrated_lengths_the_mass_is_interpolated():
    assert TABLE.mass(100, (1, 1)) == TABLE.mass(9000, (1, 1)) == 0.9
    assert TABLE.mass(600, (32, 16)) == 0.8, "outside as at the nearest"
    assert TABLE.mass(2048, (32, 16)) == pytest.approx(0.7), "along the logarithm"
    assert TABLE.mass(100_000, (32, 16)) == 0.6
    assert TABLE.mass(1024, (128, 64)) == TABLE.mass(1024, (128, 128)) == 0.99
    assert TABLE.mass(4096, (16, 16)) == 0.6, "the nearest size of block"
    assert MassTable(TABLE.entries[1:]).mass(300, (1, 1)) is None, "blocks say nothing of pairs"


def test_a_policy_without_an_aim_gets_the_gates_mass_for_the_length(tiny, tmp_path):
    hf = tiny("llama")
    model = saa.attach(hf)
    assert recorded(hf, LONG, saa.Policy()).policy.mass == 0.95, "as ever where gates hold no table"
    for gate in model.gates:
        gate.defaults = TABLE
    trace, short = (recorded(hf, ids, saa.Policy()) for ids in (LONG, SHORT))
    assert (trace.policy.mass, short.policy.mass) == (0.8, 0.9)
    assert str(trace.policy) == "mass 0.8 (default at 602 tokens), tail 64"
    assert trace.policy.asked == "default mass, tail 64"
    assert (trace.targets, short.targets) == (pytest.approx(0.8), pytest.approx(0.9))
    wide = recorded(hf, LONG, saa.Policy(block=(128, 64)))
    assert wide.policy.mass == 0.99
    stored = saa.Trace.load(trace.save(tmp_path / "t.saa"))
    assert stored.policy == trace.policy
    own = recorded(hf, LONG, saa.Policy(mass=0.5))
    assert (own.policy.mass, own.policy.default_at) == (0.5, None)
    assert recorded(hf, LONG, saa.Policy(budget=0.4)).policy.mass is None


def test_the_table_is_stored_with_the_gates_and_goes_when_they_are_trained(tiny, tmp_path):
    hf = tiny("llama")
    model = saa.attach(hf)
    saa.save_gates(model, tmp_path / "without")
    for gate in model.gates:
        gate.defaults = TABLE
    saa.save_gates(model, tmp_path / "with", policy=saa.Policy())
    saa.detach(model)
    assert saa.attach(hf, gates=tmp_path / "without").gates[0].defaults is None
    saa.detach(model)
    model = saa.attach(hf, gates=tmp_path / "with")
    assert model.gates[1].defaults == TABLE
    assert model.gates[0].defaults.about == {"command": "saa masses"}
    assert not model.spec.policy.aims
    assert model.resolve(model.spec.policy, 1024).mass == 0.8
    about = json.loads((tmp_path / "with" / "gates.json").read_text())
    for wrong in ({"mass": []}, {"mass": [{"length": 0, "block": [1, 1], "mass": 0.9}]}, {}):
        (tmp_path / "with" / "gates.json").write_text(json.dumps(about | {"defaults": wrong}))
        with pytest.raises(saa.GateError, match=r"gates\.json is not valid"):
            read_gates(tmp_path / "with")


def test_what_is_left_open_never_reaches_arithmetic():
    open_policy = saa.Policy()
    assert str(open_policy) == "default mass"
    with pytest.raises(saa.PolicyError, match="left to the default"):
        _ = open_policy.aim
    assert open_policy.with_aim("mass", 0.7).aim == 0.7
    closed = open_policy.resolved(700, causal=True, mass=0.9)
    assert closed.with_aim("mass", 0.7).default_at is None
    about = asdict(open_policy)
    assert saa.Policy.stored(about) == open_policy
    del about["mass"]
    assert saa.Policy.stored(about).mass == 0.95, "a file that named none meant that"


def test_packed_texts_get_the_mass_of_their_own_lengths(tiny):
    model = saa.attach(tiny("bert").base_model)
    for gate in model.gates:
        gate.defaults = MassTable((MassEntry(20, (1, 1), 0.9), MassEntry(80, (1, 1), 0.2)))
    texts = [[5] * 20, list(range(5, 85))]
    alone = []
    for ids in texts:
        call = saa.Call(saa.Policy(local=1, sink=0), record="full")
        alone.append(encode(model, [ids], saa.Policy(local=1, sink=0), call).states)
        assert call.trace().policy.mass == (0.9 if len(ids) == 20 else 0.2)
    together = encode(model, texts, saa.Policy(local=1, sink=0)).split()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
