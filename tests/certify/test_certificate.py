"""Policies chosen on a user's texts with the real models: what is measured is what a user's run does."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.certify.certificate import Setting, ladder_for
from saa_core.certify.degradation import DegradationMeter
from saa_core.certify.slices import SLICES, by_rare_slice, by_slice, rare_texts, slice_table
from saa_core.cli.main import main as cli
from saa_core.explain.damage import damage_gates
from saa_core.run.classify import classify
from saa_core.run.corpora import cut_windows

QUESTIONS = [
    f"{ask} the {thing} built? [SEP] {answer}"
    for ask, answer in (
        ("When was", "In 1846"),
        ("Where was", "In Riga"),
        ("By whom was", "Mr Renn"),
    )
    for thing in ("mill", "bridge", "town hall", "old lighthouse", "railway station", "library")
]


@pytest.fixture(scope="module")
def sides(minilm):
    return [
        saa.load("minilm", task="questions", side=side, device="cpu")
        for side in ("sparse", "dense")
    ]


@pytest.fixture(scope="module")
def parts(smollm2, novel):
    return cut_windows(smollm2, novel[:12_000], 64)[:24]


def test_perplexity_losses_are_those_of_the_runs(smollm2, parts):
    """Against an independent way: the log-probabilities that two traces give."""
    policy = saa.Policy(mass=0.6)
    measured = DegradationMeter(smollm2, parts[:2], "perplexity").of(policy)

    def nats(trace):
        logits = trace.head(trace.hidden)[:-1]
        top = logits.max(-1, keepdims=True)
        total = top[:, 0] + [math.log(x) for x in np.exp(logits - top).sum(-1)]
        return float((total - logits[range(len(logits)), trace.token_ids[1:]]).mean())

    for text, loss, work in zip(parts, measured.losses, measured.work, strict=False):
        dense, sparse = saa.run(smollm2, text), saa.run(smollm2, text, policy)
        assert loss == pytest.approx(math.exp(nats(sparse) - nats(dense)) - 1, abs=1e-3)
        assert work == pytest.approx(1 - sparse.sparsity, abs=1e-4)


def test_missed_mass_is_that_of_the_runs_and_a_guard_counts_as_work(smollm2, minilm, parts):
    for model in (smollm2, minilm):
        trace = saa.run(model, parts[0], saa.Policy(mass=0.8))
        measured = DegradationMeter(model, parts[:1], "missed_mass").of(saa.Policy(mass=0.8))
        assert measured.losses[0] == pytest.approx(1 - trace.retained_mass.mean(), abs=1e-5)
    guarded = saa.Policy(mass=0.8, guard=saa.Guard(0.3, rows=4))
    plain, checked = (
        DegradationMeter(smollm2, parts[:1], "missed_mass").of(p)
        for p in (saa.Policy(mass=0.8), guarded)
    )
    assert checked.work[0] > plain.work[0]
    assert checked.losses[0] <= plain.losses[0] + 1e-6


def test_label_changes_are_those_of_classify(sides):
    sparse, dense = sides
    policy = saa.Policy(mass=1.0, tokens=0.4)
    measured = DegradationMeter(sparse, QUESTIONS, "label_change", dense).of(policy)
    before = [found.label for found in classify(dense, QUESTIONS)]
    after = list(classify(sparse, QUESTIONS, policy))
    changed = [float(a.label != b) for a, b in zip(after, before, strict=True)]
    assert list(measured.losses) == changed
    assert measured.work == pytest.approx([found.flops_share for found in after], abs=1e-6)
    assert measured.part([3, 0]).losses == (changed[3], changed[0])


def test_a_loss_that_a_model_cannot_have_is_refused(sides, smollm2, minilm):
    _, dense = sides
    for make, sentence in (
        (lambda: DegradationMeter(minilm, ["A text."], "perplexity"), "encoder"),
        (lambda: DegradationMeter(minilm, ["A text."], "label_change"), "no task"),
        (lambda: DegradationMeter(smollm2, [], "perplexity"), "texts is empty"),
        (
            lambda: DegradationMeter(smollm2, ["A text."], "regret"),
            "label_change, missed_mass, perplexity",
        ),
        (
            lambda: DegradationMeter(dense, ["A text."], "missed_mass").of(saa.Policy(tokens=0.5)),
            "tokens=0.5",
        ),
    ):
        with pytest.raises(saa.SAAError, match=sentence):
            make()


def test_a_loose_promise_is_certified_and_a_strict_one_stays_dense(minilm, parts):
    ladder = [saa.Policy(mass=mass) for mass in (0.999, 0.9, 0.3)]
    steps = []
    loose = saa.certify_policy(
        minilm,
        parts[:20],
        saa.RiskLimit(missed_mass=0.3, delta=0.3),
        ladder=ladder,
        progress=lambda *step: steps.append(step),
    )
    assert loose.policy == saa.Policy(mass=0.9, fallback="never"), "what was measured"
    assert loose.chosen.work < 0.9
    assert not loose.settings[-1].certified, "keeping 30 % of the mass misses more than 30 %"
    assert steps == [(1, 3), (2, 3), (3, 3)]
    strict = saa.certify_policy(minilm, parts[:6], saa.RiskLimit(missed_mass=0.01), ladder=ladder)
    assert strict.policy is None
    assert strict.reason == "few texts"
    assert len(strict.settings) == 1, "the first failure ends the sequence"


def test_the_ladders_go_from_safe_to_sparse(smollm2, sides):
    masses = [policy.mass for policy in ladder_for(smollm2, saa.RiskLimit(perplexity=0.01))]
    assert masses == sorted(masses, reverse=True)
    ladder = ladder_for(sides[0], saa.RiskLimit(label_change=0.01))
    steps = [(policy.tokens, policy.guard.margin if policy.guard else 0.0) for policy in ladder]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == (sides[0].spec.policy.tokens, 0.99)
    assert steps[-1] == (sides[0].task.shares[0], 0.0)
    always = saa.certify_policy(
        sides[0],
        QUESTIONS,
        saa.RiskLimit(label_change=0.2, delta=0.4),
        ladder=[saa.Policy(mass=1.0, tokens=0.5, guard=saa.Guard(None, margin=1.0))],
    )
    assert always.reason == "no saving", "whoever always asks the dense side never changes a label"
    assert always.settings[0].loss == 0


def test_a_policy_file_is_what_was_chosen(smollm2, parts, tmp_path, text_file, capsys):
    guard = saa.Guard(0.1, rows=8)
    guarded = saa.Policy(mass=0.97, block=(16, 16), fallback="never", guard=guard)
    sla = saa.RiskLimit(missed_mass=0.4, delta=0.4)
    promise = saa.certify_policy(smollm2, parts[:8], sla, ladder=[guarded])
    file = saa.save_policy(
        tmp_path / "p.json", promise, smollm2, data={"file": "mine.csv"}, command="saa tune"
    )
    stored = saa.load_policy(file)
    assert stored.promise == promise
    assert stored.policy == guarded
    assert (stored.model, stored.data, stored.command) == (
        "smollm2",
        {"file": "mine.csv"},
        "saa tune",
    )
    stored.check(smollm2)
    out = tmp_path / "t.saa"
    arguments = ["run", "--policy", str(file), "--out", str(out), str(text_file)]
    assert cli(arguments) == 0
    assert "missed mass at most 40 %" in capsys.readouterr().out
    assert saa.Trace.load(out).policy == replace(guarded, tail=0)
    assert cli([*arguments, "--mass", "0.5"]) == 1
    assert "--policy and --mass exclude each other" in capsys.readouterr().err


def test_a_policy_file_may_be_written_by_hand(tmp_path, smollm2, text_file, capsys):
    file, out = tmp_path / "p.json", tmp_path / "t.saa"
    file.write_text('{"format": 1, "policy": {"mass": 0.9}}')
    assert saa.load_policy(file).policy == saa.Policy(mass=0.9, tail=0, fallback="never")
    file.write_text('{"format": 1, "policy": null}')
    assert cli(["run", "--policy", str(file), "--out", str(out), str(text_file)]) == 0
    assert saa.Trace.load(out).policy is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not a policy file"),
        ("[1]", "JSON object"),
        ('{"policy": {}}', "format None"),
        ('{"format": 9, "policy": {}}', "this version reads 1, 2"),
        ('{"format": 1, "policy": {"mass": 7}}', "mass=7"),
        ('{"format": 1, "policy": {"mess": 0.9}}', "mess"),
        ('{"format": 1, "policy": {}, "promise": {"sla": {}}}', "not a policy file"),
        ("\xff\xfe", "not a policy file"),
    ],
)
def test_bad_policy_files_are_refused_by_name(content, sentence, tmp_path):
    file = tmp_path / "p.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(saa.PolicyError, match=sentence) as caught:
        saa.load_policy(file)
    assert "p.json" in str(caught.value)
    with pytest.raises(saa.PolicyError, match=r"gone\.json"):
        saa.load_policy(tmp_path / "gone.json")


def test_a_policy_file_does_not_fit_other_models_and_gates(
    smollm2, minilm, sides, tmp_path, monkeypatch
):
    stored = saa.load_policy(saa.save_policy(tmp_path / "p.json", saa.Policy(mass=0.9), smollm2))
    with pytest.raises(saa.PolicyError, match="'smollm2', and this one is 'minilm'"):
        stored.check(minilm)
    changed = damage_gates(smollm2, "negated", layers=[])
    stored.check(changed)
    with torch.no_grad():
        changed.gates[3].query[0, 0, 0] += 0.1
    with pytest.raises(saa.PolicyError, match="other gates"):
        stored.check(changed)
    norm = smollm2.hf.get_decoder().norm.weight
    first = norm[0].clone()
    try:
        with torch.no_grad():
            norm[0] += 0.1
        with pytest.raises(saa.PolicyError, match="other weights of 'smollm2'"):
            stored.check(smollm2)
        replace(stored, dtype="torch.bfloat16").check(smollm2)  # cannot be told in another one
    finally:
        with torch.no_grad():
            norm[0] = first
    stored.check(smollm2)
    sparse, dense = sides
    stays = saa.load_policy(saa.save_policy(tmp_path / "p.json", None, sparse))
    stays.check(dense)
    with pytest.raises(saa.PolicyError, match="stays dense"):
        stays.check(sparse)


def test_a_policy_file_of_the_first_format_still_knows_its_gates(smollm2, sides, tmp_path):
    """The fingerprints are those that version 0.1 wrote for the models that ship."""
    file = tmp_path / "p.json"
    for model, gates in ((smollm2, "fef6980224be2930"), (sides[0], "e2df3dbe1018dd28")):
        about = {"format": 1, "policy": {"mass": 0.9}, "model": model.spec.title, "gates": gates}
        file.write_text(json.dumps(about))
        saa.load_policy(file).check(model)
        file.write_text(json.dumps(about | {"gates": gates[::-1]}))
        with pytest.raises(saa.PolicyError, match="other gates"):
            saa.load_policy(file).check(model)


def test_classify_takes_a_policy_file(sides, tmp_path, text_file, capsys):
    file = saa.save_policy(tmp_path / "p.json", saa.Policy(mass=1.0, tokens=0.5), sides[0])
    arguments = ["classify", "--task", "questions", "--policy", str(file), str(text_file)]
    assert cli(arguments) == 0
    sparse = capsys.readouterr().err
    assert cli([*arguments, "--tokens", "0.4"]) == 1
    assert "exclude each other" in capsys.readouterr().err
    saa.save_policy(file, None, sides[0])
    assert cli(arguments) == 0
    dense = capsys.readouterr().err
    assert "work done: 100.0 %" in dense
    assert "work done: 100.0 %" not in sparse


def test_slices_are_what_they_say():
    assert set(SLICES) == {
        *("numbers", "negation", "names", "code", "japanese", "very short", "very long")
    }
    plain = "the kettle on the stove began to sing and they all sat down"
    assert not any(has(plain) for has in SLICES.values())
    for each in rare_texts():
        assert SLICES[each.slice](each.text), each
    told = {(each.slice, each.language) for each in rare_texts()}
    assert told == {(name, "en") for name in SLICES if name != "japanese"} | {
        (name, "ja") for name in SLICES
    }


def test_slices_are_reported_worst_first(smollm2):
    sla = saa.RiskLimit(perplexity=0.02)
    rare = [each for each in rare_texts() if each.slice in ("negation", "very short")][:14]
    measured = DegradationMeter(smollm2, [each.text for each in rare], "perplexity").of(
        saa.Policy(mass=0.7)
    )
    by_kind = by_rare_slice(rare, measured, sla)
    assert [each.loss for each in by_kind] == sorted((each.loss for each in by_kind), reverse=True)
    assert sum(each.texts for each in by_kind) == 2 * len(rare), "each in its kind and in all"
    found = {each.name: each for each in by_slice([each.text for each in rare], measured, sla)}
    assert found["all"].texts == len(rare)
    assert found["all"].loss == pytest.approx(sla.clipped(measured.losses).mean())
    assert found["all"].low <= found["all"].loss <= found["all"].high
    assert found["code"].texts == 0
    assert "no such texts" in "\n".join(slice_table(list(found.values())))


def test_a_figure_that_is_no_number_is_null_in_a_policy_file(tmp_path):
    """A broken model's perplexity; the file is valid JSON and says the same when it is read."""
    sla = saa.RiskLimit(perplexity=0.01)
    setting = Setting(saa.Policy(mass=0.9), math.nan, 0.0, math.inf, 0.5, 1.0, certified=False)
    promise = saa.Certificate(sla, None, 8, (setting,), "over the limit")
    file = saa.save_policy(tmp_path / "p.json", promise)
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", file.read_text()))
    (again,) = saa.load_policy(file).promise.settings
    assert math.isnan(again.loss)
    assert math.isnan(again.high)
    assert (again.low, again.work) == (0.0, 0.5)
    assert "stay dense" in str(saa.load_policy(file).promise)


def test_everything_that_a_promise_rests_on_is_plain_json(smollm2, parts, tmp_path):
    promise = saa.certify_policy(
        smollm2, parts[:4], saa.RiskLimit(missed_mass=0.5), ladder=[saa.Policy(mass=0.9)]
    )
    about = json.loads(saa.save_policy(tmp_path / "p.json", promise, smollm2).read_text())
    (setting,) = about["promise"]["settings"]
    assert setting["p_value"] > 0
    assert about["promise"]["texts"] == 4
    assert about["versions"]["torch"]
