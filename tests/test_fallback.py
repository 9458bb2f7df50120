"""``fallback="auto"``: what gains no time on a machine is computed densely, unless somebody looks."""

import json
from dataclasses import asdict, replace

import pytest
import torch

import saa_core as saa
from saa_core.attention import profiles
from saa_core.attention.profiles import Machine, Profile, Times, this_machine, verdict
from saa_core.cli.main import main as cli
from saa_core.data import fetch
from saa_core.errors import SAAError
from saa_core.explain.damage import damage_gates
from saa_core.model import Model
from saa_core.run.classify import answers, classify
from saa_core.run.execute import execute
from saa_core.run.fallback import verdict_for
from saa_core.run.profile import measure_profile
from saa_core.run.timing import rounds

IDS = torch.arange(80)[None] % 90 + 3
SPARSE = saa.Policy(mass=0.3, sink=1, local=1)
HERE = this_machine(torch.device("cpu"), torch.get_num_threads())
OTHER = Machine("cpu", "Other processor", ("avx2",), 8)
SHAPE = (2, 4, 2, 16)


def profile(gains: dict[int, float], **changes: object) -> Profile:
    """SAA is so many times faster at these lengths."""
    times = tuple(Times(length, (gain, gain), (1.0, 1.0)) for length, gain in gains.items())
    return replace(
        Profile(HERE, "mine", "untrained", SHAPE, "float32", "mass 0.95", times), **changes
    )


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Puts profiles where they are looked for."""
    monkeypatch.setattr(profiles, "folders", lambda: (tmp_path,))

    def put(*found: Profile) -> None:
        for index, each in enumerate(found):
            profiles.save_profiles([each], tmp_path / f"{index}.json")

    yield put
    profiles.known.cache_clear()


def call(model: Model, policy: saa.Policy = SPARSE, **given: object) -> saa.Call:
    made = saa.Call(policy, **given)
    with torch.inference_mode():
        model.hf(IDS, saa=made)
    return made


@pytest.fixture
def model(tiny) -> Model:
    return saa.attach(tiny("llama"))


@torch.inference_mode()
def test_what_gains_nothing_is_what_the_model_computes_itself(model, measured):
    measured(profile({16: 0.5, 128: 0.8}))
    dense = model.hf(IDS).logits
    made = saa.Call(SPARSE)
    assert torch.equal(model.hf(IDS, saa=made).logits, dense)
    assert (made.used, made.kernel) == (None, "dense")
    assert (
        "times the speed of dense at 80 tokens, as measured on this machine" in made.kernel_reason
    )
    measured(profile({16: 1.5, 128: 1.8}))
    made = saa.Call(SPARSE)
    assert not torch.equal(model.hf(IDS, saa=made).logits, dense)
    assert made.used is not None


def test_what_was_never_measured_is_decided(model, measured):
    assert call(model).used is not None
    measured(profile({16: 0.5}, gate="another", shape=(30, 9, 3, 64)))
    assert call(model).used is not None
    measured(profile({16: 0.5}, kind="tokens"))
    assert call(model).used is not None


@pytest.mark.parametrize(
    "asked",
    [
        replace(SPARSE, fallback="never"),
        replace(SPARSE, force=(saa.Force(key=5),)),
        replace(SPARSE, kernel="reference"),
        replace(SPARSE, granularity="block"),
    ],
    ids=["never", "overrides", "kernel", "granularity"],
)
def test_what_is_asked_for_is_decided_whatever_it_gains(model, measured, asked):
    measured(profile({16: 0.5}))
    assert call(model).used is None
    assert call(model, asked).used is not None


def test_whoever_looks_sees_a_decision(model, measured):
    measured(profile({16: 0.5}))
    assert call(model, record="summary").used is not None
    assert call(model, record="full").trace().density.mean() < 1
    seen = call(model, observe=lambda *_: None)
    assert seen.used is not None
    ids = [IDS[0].tolist()]
    assert execute(model, ids, SPARSE).call.used is not None, "figures are measured so"
    assert execute(model, ids, SPARSE, fall_back=True).dense_instead
    assert not execute(model, ids, SPARSE, "summary", fall_back=True).dense_instead


def test_gradients_and_parts_of_a_text_were_not_measured(model, measured):
    measured(profile({16: 0.5}))
    made = saa.Call(SPARSE)
    model.hf(IDS, saa=made).logits.sum().backward()
    assert made.used is not None
    with torch.inference_mode():
        cache = model.hf(IDS, use_cache=True).past_key_values
        made = saa.Call(SPARSE)
        model.hf(IDS[:, :4], past_key_values=cache, saa=made)
    assert made.used is not None


def test_damaged_gates_never_fall_back(model, measured):
    measured(profile({16: 0.5}))
    assert call(damage_gates(model, "random")).used is not None
    assert call(model).used is None
    with torch.no_grad():
        model.gates[0].query.fill_(torch.nan)
    assert call(model).used is not None


def test_a_default_is_timed_as_what_it_does(model, measured):
    measured(profile({16: 0.5}))
    for policy, kernel, density in ((SPARSE, "dense", 1.0), (SPARSE.decided(), None, None)):
        *_, (_, timing) = rounds(model, IDS[0].tolist(), (None, policy), repeats=2)
        assert (timing.kernel == "dense") == (kernel == "dense")
        assert (timing.density == 1.0) == (density == 1.0)


def test_between_measured_lengths_the_gain_is_interpolated():
    found = profile({64: 0.5, 256: 2.0, 1024: 1.5, 4096: 6.0})
    assert found.gain(32) is None
    assert found.gain(64) == pytest.approx(0.5)
    assert found.gain(128) == pytest.approx(1.0)
    assert found.gain(400) == pytest.approx(2.0), "pair by pair is not mixed with blocks"
    assert found.gain(700) is None
    assert found.gain(2048) == pytest.approx(3.0)
    assert found.gain(50_000) == pytest.approx(6.0)


def asked(length: int, *found: Profile, **changes: object) -> profiles.Verdict | None:
    about = {"gate": "untrained", "shape": SHAPE, "dtype": "float32", "machine": HERE}
    return verdict(length, profiles=found, **(about | changes))


def test_the_nearest_machine_counts():
    here, there = profile({64: 2.0}), profile({64: 0.5}, machine=OTHER)
    assert not asked(64, here, there).dense
    assert asked(64, there).dense
    assert "other machines (Other processor)" in asked(64, there).reason
    alike = profile({64: 2.0}, machine=replace(HERE, cpu="A cousin", threads=64))
    assert not asked(64, alike, there).dense
    assert "machines alike (A cousin)" in asked(64, alike, there).reason
    fast = profile({64: 3.0}, machine=replace(OTHER, cpu="Fast"))
    assert asked(64, fast, there).dense, (
        "of machines that are unlike this one every one has to gain"
    )
    assert not asked(64, fast).dense
    assert asked(32, fast).dense, "nothing was shown below what was timed"
    assert asked(700, fast).dense, "nor in blocks by what was decided pair by pair"
    gpu = profile({64: 9.0}, machine=Machine("NVIDIA H200", "any", (), 4))
    assert asked(64, gpu) is None
    assert not asked(64, gpu, machine=Machine("NVIDIA H200", "another", (), 8)).dense


def test_a_gpu_that_nobody_measured_is_cautious():
    card = Machine("NVIDIA L4", "any", (), 4)
    short, long = (asked(length, profile({64: 9.0}), machine=card) for length in (60_000, 70_000))
    assert short.dense
    assert not long.dense
    assert "nothing was measured of such a model on a GPU (NVIDIA L4 here)" in short.reason
    assert "saa measure --profile" in long.reason
    measured = profile({64: 9.0}, machine=card)
    assert not asked(80, measured, machine=card).dense
    assert asked(80, measured, machine=card, kind="tokens").dense, "tokens are another matter"
    assert asked(80, profile({64: 9.0}, gate="another", shape=(1, 1, 1, 1))) is None, "a CPU is not"


def test_these_gates_and_blocks_count_before_others_of_their_shape():
    own, other = profile({64: 2.0}, gate="mine"), profile({64: 0.5}, gate="theirs")
    assert not asked(64, own, other, gate="mine").dense
    found = asked(64, own, other, gate="new")
    assert found.dense
    assert "which has the same shape" in found.reason
    wide = profile({64: 0.5}, block=(128, 64))
    assert not asked(64, wide, profile({64: 2.0})).dense
    assert asked(64, wide, profile({64: 2.0}), block=(128, 64)).dense


def test_another_number_format_counts_where_this_one_was_not_measured():
    half = profile({64: 0.5}, dtype="bfloat16")
    found = asked(64, half)
    assert found.dense
    assert "in bfloat16" in found.reason
    assert not asked(64, half, profile({64: 2.0}, machine=OTHER)).dense


def test_the_nearest_number_of_texts_counts():
    one, many = (
        profile({64: gain}, kind="tokens", batch=batch) for gain, batch in ((0.5, 1), (2.0, 32))
    )
    assert asked(64, one, many, kind="tokens").dense
    assert not asked(64, one, many, kind="tokens", batch=20).dense
    assert asked(64, one, many) is None


def test_profiles_are_kept_and_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("SAA_CACHE", str(tmp_path))
    monkeypatch.setattr(profiles, "folders", lambda: (profiles.own_folder(),))
    profiles.known.cache_clear()
    first = profile({64: 2.0})
    file = profiles.save_profiles([first, profile({64: 2.0}, dtype="bfloat16")])
    assert file.is_relative_to(tmp_path)
    assert profiles.save_profiles([profile({64: 3.0})]) == file
    found = profiles.known()
    assert sorted((each.dtype, each.gain(64)) for each in found) == [
        ("bfloat16", 2.0),
        ("float32", 3.0),
    ]
    file.write_text("{}")
    profiles.known.cache_clear()
    assert profiles.known() == ()
    with pytest.raises(SAAError, match="no valid profile"):
        profiles.read_profiles(file)
    profiles.known.cache_clear()


def test_what_ships_can_be_read_and_says_what_measured_it():
    files = sorted((fetch.assets() / "profiles").glob("*.json"))
    for file in files:
        for found in profiles.read_profiles(file):
            assert found.command
            assert found.versions["torch"]
            assert all(len(times.dense_ms) >= 5 for times in found.times)


def test_a_machine_measures_itself(tiny, tmp_path, monkeypatch):
    model = saa.attach(tiny("llama"), FakeTokenizer())
    (found,) = measure_profile(model, (16, 24), repeats=2)
    assert found.shape == SHAPE
    assert found.machine == HERE
    assert [(t.length, len(t.dense_ms), len(t.saa_ms)) for t in found.times] == [
        (16, 2, 2),
        (24, 2, 2),
    ]
    about = json.loads(json.dumps(asdict(found)))
    assert about["policy"] == "default mass"
    with pytest.raises(saa.PolicyError, match="lengths"):
        measure_profile(model, (0,))
    with pytest.raises(saa.PolicyError, match="repeats"):
        measure_profile(model, (16,), repeats=0)


class FakeTokenizer:
    cls_token_id = None

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 90 + 3 for letter in text[:500]]}


def test_a_policy_file_of_before_always_decides():
    assert saa.Policy().fallback == "auto"
    about = asdict(saa.Policy(mass=0.4, tail=0))
    del about["fallback"]
    assert saa.Policy.stored(about).fallback == "never"


def test_the_verdict_is_said_before_anything_runs(model, measured):
    assert verdict_for(model, SPARSE, 80) is None
    measured(profile({16: 0.5}))
    assert verdict_for(model, SPARSE, 80).dense
    assert verdict_for(model, None, 80) is None
    assert verdict_for(model, SPARSE.decided(), 80) is None


@pytest.mark.model
def test_the_command_measures_once_and_keeps_it(tmp_path, capsys):
    file = tmp_path / "here.json"
    arguments = ["measure", "--model", "minilm", "--lengths", "16", "--repeats", "1"]
    assert cli([*arguments, "--profile", str(file)]) == 0
    assert f"profile: {file}" in capsys.readouterr().out
    (found,) = profiles.read_profiles(file)
    assert (found.model, found.gate, found.machine) == ("minilm", "minilm-distilled-3000", HERE)
    assert "--profile" in found.command
    assert cli([*arguments, "--profile", str(file), "--mass", "0.5"]) == 1
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.model
def test_where_dropping_tokens_gains_nothing_the_reference_model_answers(measured):
    task = saa.load("minilm", task="spam", side="sparse", device="cpu")
    texts = ["You won a prize, call now to claim it", "See you at the station at nine"] * 2
    ids = task.tokenizer(texts)["input_ids"]
    slow = profile(
        {8: 0.5, 32: 0.6}, gate="minilm + spam", shape=task.gates[0].shape, kind="tokens"
    )
    dropping = list(classify(task, texts))
    assert not all(found.dense for found in dropping)
    measured(slow)
    found = list(classify(task, texts))
    expected = list(classify(task.reference_model, texts, saa.Policy(mass=1.0)))
    for own, reference in zip(found, expected, strict=True):
        assert own.dense
        assert own.flops_share == own.token_share == 1
        assert own.probabilities == pytest.approx(reference.probabilities, abs=1e-6)
    assert not answers(task, ids, task.spec.policy).dense.all(), "figures of a policy drop tokens"
    decided = list(classify(task, texts, task.spec.policy.decided()))
    assert [p.label for p in decided] == [p.label for p in dropping]
    with pytest.raises(saa.PolicyError, match="tokens="):
        list(classify(task, texts, saa.Policy(mass=1.0, tokens=0.01)))


@pytest.mark.model
def test_a_prompt_that_gains_nothing_is_read_densely(smollm2, measured):
    text = "The ferry leaves the island at nine, and"
    policy = saa.Policy(mass=0.05, sink=0, local=1)
    dense, sparse = (list(saa.generate(smollm2, text, p, max_new_tokens=5)) for p in (None, policy))
    assert dense != sparse
    measured(profile({4: 0.5}, gate=smollm2.gates[0].id, shape=smollm2.gates[0].shape))
    assert list(saa.generate(smollm2, text, policy, max_new_tokens=5)) == dense
    assert saa.run(smollm2, text, policy).density.mean() < 1, "who looks sees the decision"


def timed(dtype: str, dense: float, sparse: float, **changes: object) -> Profile:
    times = tuple(Times(length, (dense, dense), (sparse, sparse)) for length in (256, 1024, 4096))
    return replace(profile({}), **{"dtype": dtype, "times": times, "model": "mine", **changes})


def test_another_number_format_is_taken_only_where_this_machine_showed_it_faster():
    plain, half = timed("float32", 10.0, 8.0), timed("bfloat16", 6.0, 7.0)

    def found(*known: Profile) -> str | None:
        return profiles.faster_dtype("mine", HERE, known)

    assert found(plain, half) == "bfloat16"
    assert found(plain, replace(half, model="mine + joint")) == "bfloat16", "an adapter of it"
    assert found(plain) is None
    assert found(half) is None, "nothing to compare it with"
    assert found(plain, replace(half, machine=OTHER)) is None
    assert found(plain, replace(half, model="other")) is None
    assert found(plain, timed("bfloat16", 6.0, 9.0)) is None, "one side is slower"
    short = tuple(t for t in half.times if t.length == 256)
    assert found(plain, replace(half, times=short)) is None, "only short texts"
