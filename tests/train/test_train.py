"""Distillation learns, resumes exactly, and its target is the true attention mass."""

import dataclasses
import itertools
import re

import pytest
import torch

import saa_core as saa
from benchmarks.quality import needles
from saa_core.data import corpus
from saa_core.data.recall import recall
from saa_core.train.calibrate import SLACKS, Sensitivity, calibrate, share_out
from saa_core.train.distil import block_mass
from saa_core.train.evaluate import evaluate, interval, percent
from tests.problems import problem

WORDS = "the cat sat on the mat while a dog ran over the hill and far away again "


class Letters:
    """A tokenizer of single letters, enough for training on ids."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) % 97 for letter in text]}


@pytest.fixture
def toy(tiny):
    return lambda: saa.attach(tiny(), Letters(), rank=8)


@pytest.mark.parametrize(("length", "block"), [(64, (32, 16)), (75, (32, 16)), (40, (1, 1))])
def test_block_mass_is_the_softmax_summed_over_blocks(length, block):
    p = problem(length, batch=2, block=block)
    found = block_mass(p.q, p.k, p.allowed, block, torch.arange(p.decision.count.shape[2]), p.scale)
    scores = p.q @ p.k.repeat_interleave(2, 1).transpose(-1, -2) * p.scale
    weights = scores.masked_fill(~p.allowed.pairs, -torch.inf).softmax(-1)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))
    for m in range(found.shape[2]):
        for s in range(found.shape[3]):
            part = weights[:, :, m * block[0] :, s * block[1] :][:, :, : block[0], : block[1]]
            torch.testing.assert_close(found[:, :, m, s], part.sum(-1).mean(-1))


def test_training_lowers_the_loss_and_leaves_the_model_alone(toy):
    model = toy()
    weights = {
        name: value.clone()
        for name, value in model.hf.state_dict().items()
        if "saa_gate" not in name
    }
    config = saa.TrainConfig(steps=60, lengths=(64, 96), rate=1e-2)
    steps = list(saa.train_gates(model, [WORDS * 20], config))
    assert [step.step for step in steps] == list(range(1, 61))
    first = sum(step.loss for step in steps[:8]) / 8
    last = sum(step.loss for step in steps[-8:]) / 8
    assert last < 0.8 * first
    for name, value in weights.items():
        assert torch.equal(model.hf.state_dict()[name], value)
    assert not any(
        parameter.requires_grad for gate in model.gates for parameter in gate.parameters()
    )


def test_a_resumed_run_ends_where_an_unbroken_one_does(toy, tmp_path):
    config = saa.TrainConfig(steps=12, lengths=(64,), checkpoint=str(tmp_path / "a"), save_every=4)
    torch.manual_seed(1)
    unbroken = toy()
    losses = [step.loss for step in saa.train_gates(unbroken, [WORDS * 20], config)]
    torch.manual_seed(1)
    broken = toy()
    again = dataclasses.replace(config, checkpoint=str(tmp_path / "b"))
    for step in saa.train_gates(broken, [WORDS * 20], again):
        if step.step == 9:
            break  # steps after the checkpoint at 8 are lost, as in a crash
    torch.manual_seed(1)
    resumed = toy()
    steps = list(saa.train_gates(resumed, [WORDS * 20], again))
    assert [step.step for step in steps] == [9, 10, 11, 12]
    assert [step.loss for step in steps] == pytest.approx(losses[8:], abs=1e-5)
    changed = dataclasses.replace(again, rate=0.1)
    with pytest.raises(saa.GateError, match="another folder"):
        list(saa.train_gates(resumed, [WORDS * 20], changed))


def test_texts_shorter_than_a_window_are_refused(toy):
    with pytest.raises(saa.TextError, match="100 tokens"):
        list(saa.train_gates(toy(), ["short"], saa.TrainConfig(steps=1, lengths=(100, 200))))


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"lengths": ()}, {"lengths": (2,)}, {"rate": 2.0}]
)
def test_bad_training_settings_are_refused(change):
    with pytest.raises(saa.PolicyError, match=next(iter(change))):
        saa.TrainConfig(**change)


def test_splits_hold_out_the_last_tenth(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("".join(f"line {index}\n" for index in range(1000)))
    train, held = corpus.documents([str(file)])
    assert (train.split, held.split) == ("train", "heldout")
    assert train.text + held.text == file.read_text()
    assert 0.85 < len(train.text) / len(file.read_text()) < 0.95
    with pytest.raises(saa.TextError, match="known sources: austen"):
        corpus.documents(["no-such-source"])


def test_recall_documents_ask_for_facts_that_they_hide_and_share_nothing_with_the_benchmark():
    paragraphs = [f"Paragraph {n} says something. It goes on for a while." for n in range(90)]
    made = list(recall(paragraphs, 20, seed=1))
    assert made == list(recall(paragraphs, 20, seed=1))
    assert len(set(made)) == 20
    for text in made:
        body, _, asked = text.rpartition("\n\n")
        answers = [part for part in re.findall(r"[^.']+[.']", asked) if " of " in part]
        assert all(answer.strip() in body for answer in answers)
        assert "password" not in text
        assert not set(needles.WORDS) & set(re.findall(r"[a-z]+", text))
        assert not {*needles.NAMES, *needles.CITIES} & set(re.findall(r"[A-Z][a-z]+", text))


def test_windows_are_seeded_and_can_be_skipped():
    streams = {"a": list(range(300)), "b": list(range(1000, 1200))}
    drawn = corpus.draw_windows(streams, (32, 64), seed=3)
    first = [next(drawn) for _ in range(6)]
    assert {source for source, _, _ in first} == {"a", "b"}
    assert all(ids == tuple(streams[source][at : at + len(ids)]) for source, at, ids in first)
    assert next(corpus.draw_windows(streams, (32, 64), seed=3, skip=5)) == first[5]


def test_evaluation_of_everything_kept_is_no_change(smollm2, novel):
    policies = [saa.Policy(mass=1.0), saa.Policy(mass=0.5)]
    same, worse = evaluate(smollm2, novel[:3000], "novel", 128, policies, windows=2)
    assert same.windows == 2
    assert same.density == 1
    assert abs(same.ppl_increase_pct) < 0.05
    assert worse.density < 0.9
    assert worse.ppl_increase_pct > same.ppl_increase_pct
    assert 3 < same.ppl_dense < 200


def test_intervals_cover_the_mean():
    lo, hi = interval([0.0, 1.0, 2.0, 3.0])
    assert 0 <= lo < 1.5 < hi <= 3
    assert percent(0.01) == pytest.approx(1.005, abs=1e-3)


def test_slack_goes_where_it_saves_most_and_moves_no_more_in_all():
    """Against every possible choice of three layers and five slacks."""
    few = range(2, 7)
    measured = [
        Sensitivity(0.9, tuple(0.9 - 0.05 * step for step in range(len(SLACKS)))),
        Sensitivity(0.1, tuple(0.9 * 0.7**step for step in range(len(SLACKS)))),
        Sensitivity(0.02, tuple(0.5 * 0.9**step for step in range(len(SLACKS)))),
    ]
    slacks = share_out(measured, exponent=1.5)

    def moved(choice):
        return sum(m.movement * s**1.5 for m, s in zip(measured, choice, strict=True))

    def density(choice):
        return sum(m.density[SLACKS.index(s)] for m, s in zip(measured, choice, strict=True))

    limit = moved([1.0] * 3)
    assert moved(slacks) <= limit
    assert density(slacks) < density([1.0] * 3)
    assert slacks[0] < slacks[1]
    options = itertools.product([SLACKS[step] for step in few], repeat=3)
    best = min(density(choice) for choice in options if moved(choice) <= limit)
    assert density(slacks) <= best + 0.05


def test_calibration_is_measured_stored_and_read(tiny, tmp_path):
    model = saa.attach(tiny(), Letters())
    policy = saa.Policy(mass=0.7, granularity="pair", sink=1, local=1)
    found = calibrate(model, {"letters": WORDS * 20}, policy, length=48)
    assert len(found) == 2
    assert sum(layer.share for layer in found) == pytest.approx(2, abs=1e-3)
    assert [gate.calibration for gate in model.gates] == found
    folder = saa.save_gates(model, tmp_path / "gates")
    again = saa.attach(saa.detach(model), Letters(), gates=folder)
    assert [gate.calibration for gate in again.gates] == found
    gate = again.gates[0]
    assert gate.target(policy, (1, 1)) == pytest.approx(1 - 0.3 * found[0].slack)
    assert gate.target(policy, (32, 16)) == 0.7, "measured pair by pair, used pair by pair"
    over = saa.Policy(budget=0.3, budget_over="call")
    assert gate.target(over, (1, 1)) == pytest.approx(0.3 * found[0].share)
    assert gate.target(saa.Policy(budget=0.3), (1, 1)) == 0.3
