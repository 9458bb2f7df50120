"""A task from a table of one's own to labels: trained, stored, loaded, executed, told apart from dense."""

import csv
import itertools
import json
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import saa_core as saa
from app.state.examples import gallery
from saa_core.cli.main import main as cli
from saa_core.data import fetch
from saa_core.data.labelled import LabelledText
from saa_core.run.classify import classify
from saa_core.run.flops import encoder_flops
from saa_core.run.varlen import encode, packing_of, token_gates
from saa_core.train.batches import TokenizedTexts
from saa_core.train.task import TaskTraining, rising
from saa_core.train.tokens import Answers, TokenConfig

GOOD = ("wonderful", "delightful", "excellent", "superb")
BAD = ("terrible", "awful", "boring", "dreadful")
FILLER = (
    "the",
    "film",
    "was",
    "on",
    "a",
    "rainy",
    "day",
    "and",
    "we",
    "saw",
    "it",
    "with",
    "friends",
)


def reviews(count: int) -> list[tuple[str, str]]:
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        label = draw.choice(("good", "bad"))
        words = draw.choices(FILLER, k=draw.randrange(5, 25))
        words.insert(draw.randrange(len(words)), draw.choice(GOOD if label == "good" else BAD))
        rows.append((" ".join(words), label))
    return rows


@pytest.fixture(scope="session")
def folder(tmp_path_factory, minilm):
    """A task that was trained by the command line on a user's own table, on the real MiniLM."""
    place = tmp_path_factory.mktemp("task")
    table = place / "mine.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *reviews(240)])
    command = ["train-task", str(table), "--out", str(place / "tone"), "--steps", "40", "60"]
    assert cli([*command, "--batch", "16", "--rate", "0.0005", "--longest", "48"]) == 0
    return place / "tone"


@pytest.fixture(scope="session")
def tone(folder):
    return saa.load("minilm", task=folder, device="cpu")


def test_the_command_reports_and_stores_what_each_share_costs(folder):
    about = json.loads((folder / "task.json").read_text())
    assert about["labels"] == ["bad", "good"]
    rows = about["evaluation"]["quality"]
    assert rows[0]["wanted"] == 1
    assert rows[0]["flops_share"] == 1
    assert rows[0]["accuracy"] > 0.9, "one word says it"
    for row in rows:
        assert row["lo"] <= row["accuracy"] <= row["hi"]
        assert row["token_share"] == pytest.approx(row["wanted"], abs=0.1), "asked is done"
    assert {0.7, 0.5, 0.35} <= {row["wanted"] for row in rows}
    for side in ("dense", "sparse"):
        assert all(file.stat().st_size < 3e6 for file in (folder / side).iterdir())


def test_another_seed_of_the_gates_goes_on_from_the_same_teacher(folder, minilm, tmp_path):
    rows = [LabelledText(text, label, "train") for text, label in reviews(60)]
    rows += [replace(row, split=split) for row in rows[:20] for split in ("validation", "test")]
    model = saa.load("minilm", device="cpu")
    config = TokenConfig(steps=(9, 2), batch=8, longest=48, seed=1)
    training = TaskTraining(model, "tone", rows, config, teacher=folder)
    assert {step.stage for step in training.steps()} == {"sparse"}
    training.finish(tmp_path / "again", training={})
    texts = [text for text, _ in reviews(10)]
    pair = (
        saa.load("minilm", task=path, side="dense", device="cpu")
        for path in (folder, tmp_path / "again")
    )
    first, second = ([p.probabilities for p in classify(model, texts)] for model in pair)
    for before, after in zip(first, second, strict=True):
        assert after == pytest.approx(before, abs=1e-3)
    other = [replace(row, label=row.label.upper()) for row in rows]
    with pytest.raises(saa.GateError, match=r"teacher=.*tells apart bad, good"):
        TaskTraining(saa.load("minilm", device="cpu"), "tone", other, config, teacher=folder)
    narrow = replace(config, rank=4)
    with pytest.raises(saa.GateError, match=r"teacher=.*does not fit"):
        TaskTraining(saa.load("minilm", device="cpu"), "tone", rows, narrow, teacher=folder)


def test_both_sides_load_and_agree_mostly(folder, tone):
    dense = saa.load("minilm", task=folder, side="dense", device="cpu")
    assert tone.spec.title == dense.spec.title == "minilm + tone"
    assert any(token_gates(packing_of(tone)))
    assert not any(token_gates(packing_of(dense)))
    texts, labels = zip(*reviews(40), strict=True)
    full = list(classify(dense, texts, saa.Policy(mass=1.0)))
    half = list(classify(tone, texts, saa.Policy(mass=1.0, tokens=0.6), batch=7))
    assert all(p.token_share == p.flops_share == 1 for p in full)
    whole = list(classify(tone, texts[:3], saa.Policy(mass=1.0)))
    assert all(p.flops_share == 1 for p in whole), "no gate runs where nothing may be dropped"
    assert all(p.token_share < 1 and p.flops_share < 1 for p in half)
    for predictions in (full, half):
        right = np.mean([p.label == label for p, label in zip(predictions, labels, strict=True)])
        assert right > 0.85
    for p in half:
        assert sum(p.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert p.label == max(p.probabilities, key=p.probabilities.get)
    with pytest.raises(saa.PolicyError, match="no token gates"):
        list(classify(dense, texts, saa.Policy(tokens=0.5)))
    with pytest.raises(saa.PolicyError, match=r"tokens=0.1.*from 0.3 to 0.9"):
        list(classify(tone, texts, saa.Policy(tokens=0.1)))


def test_a_batch_says_what_each_text_alone_says(tone):
    texts = [text for text, _ in reviews(9)]
    policy = saa.Policy(mass=1.0, tokens=0.5)
    together = list(classify(tone, texts, policy))
    for text, found in zip(texts, together, strict=True):
        (alone,) = classify(tone, [text], policy)
        assert (alone.label, alone.tokens, alone.token_share) == (
            found.label,
            found.tokens,
            found.token_share,
        )
        assert alone.probabilities == pytest.approx(found.probabilities, abs=1e-4)


def test_a_trace_knows_the_label(tone, tmp_path):
    text, _ = reviews(1)[0]
    trace = saa.run(tone, text, saa.Policy(mass=1.0, tokens=0.5))
    (found,) = classify(tone, [text], saa.Policy(mass=1.0, tokens=0.5))
    assert trace.label == found.label
    assert dict(zip(trace.labels, trace.label_probs, strict=True)) == pytest.approx(
        found.probabilities, abs=1e-4
    )
    assert trace.token_share == pytest.approx(found.token_share)
    loaded = saa.Trace.load(trace.save(tmp_path / "t.saa"))
    assert loaded.label == trace.label
    dense = saa.run(tone, text)
    assert dense.kept_tokens is None
    assert dense.token_share == 1


def shipped(name):
    return (saa.load("minilm", task=name, side=side, device="cpu") for side in ("dense", "sparse"))


@pytest.mark.model
@pytest.mark.parametrize("name", fetch.list_shipped("tasks", "minilm"))
def test_what_ships_is_small_does_less_and_is_wrong_where_the_gallery_says_so(name):
    folder = fetch.assets() / "tasks" / "minilm" / name
    for side in ("dense", "sparse"):
        assert all(file.stat().st_size < 3e6 for file in (folder / side).iterdir())
    dense, sparse = shipped(name)
    assert sparse.spec.policy.tokens is not None
    assert sparse.task.evaluation["quality"]
    cards = gallery(f"minilm + {name}")
    wrong = ["goes wrong" in card.titles["en"] for card in cards]
    assert sorted(wrong) == [False, False, True]
    texts = [card.text for card in cards]
    full, found = list(classify(dense, texts)), list(classify(sparse, texts))
    assert [a.label != b.label for a, b in zip(full, found, strict=True)] == wrong
    assert all(prediction.flops_share < 0.8 for prediction in found)


@pytest.mark.model
def test_what_questions_ask_for():
    asked = {
        "Where was the treaty signed? [SEP] Paris": "location",
        "How many people live there? [SEP] about 40,000": "quantity",
        "Who discovered the comet? [SEP] Caroline Herschel": "humans",
        "When did the war end? [SEP] 12 May 1945": "date",
    }
    for model in shipped("questions"):
        found = list(classify(model, list(asked)))
        assert [prediction.label for prediction in found] == list(asked.values())


class Unlearnt:
    """A training whose sparse side is always wrong."""

    def __new__(cls, *arguments, **given):
        training = TaskTraining(*arguments, **given)
        answers = training.stages.answers

        def worse(examples, side, share=1.0):
            found = answers(examples, side, share)
            if side == "dense":
                return found
            right = torch.nn.functional.one_hot(torch.tensor(examples.labels), 2)
            return replace(found, logits=-right.float())

        training.stages.answers = worse
        return training


@pytest.mark.parametrize(
    ("wrong", "texts", "expected"),
    [
        ({}, 400, 0.35),
        ({0.35: 2}, 400, 0.35),
        ({0.45: 12, 0.4: 12, 0.35: 12}, 400, 0.5),
        ({0.6: 6}, 400, 0.35),  # chance: less work loses less
        ({0.6: 80}, 400, 0.7),
        ({0.8: 100}, 400, 1.0),
        ({}, 19, 1.0),
    ],
)
def test_the_default_is_the_smallest_share_that_loses_no_more_than_chance(
    minilm, wrong, texts, expected
):
    """Some texts that dense has right are wrong at some shares, as surely as others are right."""
    assert chosen(minilm, texts, wrong, unsure=0.0) == saa.Policy(
        mass=1.0, tokens=None if expected == 1.0 else expected
    )


def test_where_the_wrong_ones_are_unsure_the_default_asks_the_dense_side(minilm):
    policy = chosen(minilm, 400, {0.5: 40, 0.45: 40, 0.4: 40, 0.35: 120}, unsure=0.8)
    assert policy == saa.Policy(mass=1.0, tokens=0.4, guard=saa.Guard(None, margin=0.3))
    # Asking for every third text would cost more than it saves.
    policy = chosen(minilm, 400, dict.fromkeys((0.55, 0.5, 0.45, 0.4, 0.35), 200), unsure=0.8)
    assert policy == saa.Policy(mass=1.0, tokens=0.6)


def chosen(model, texts, wrong, unsure):
    """The default where so many texts are wrong at some shares, with logits nearer together by a share."""
    training = object.__new__(TaskTraining)
    training.model = model
    training.lots = {"validation": TokenizedTexts([[1]] * texts, [1] * texts)}

    def answers(split, side, share):
        assert split == "validation"
        logits = torch.tensor([[0.0, 2.0]]).repeat(texts, 1)
        logits[: wrong.get(share, 0)] = torch.tensor([2.0, 0.0]) * (1 - unsure)
        needed = torch.full((texts, 6), round(100 * share))
        needed[:, 0] = 100
        return Answers(logits, needed)

    training._answers = answers
    return training.choose()


def test_what_is_measured_is_made_monotone():
    assert rising([0.0, 0.1, 0.3]) == [0.0, 0.1, 0.3]
    assert rising([0.3, 0.1, 0.2, 0.5]) == pytest.approx([0.2, 0.2, 0.2, 0.5])
    assert rising([0.1, 0.4, 0.2, 0.0]) == pytest.approx([0.1, 0.2, 0.2, 0.2])


def test_a_teacher_of_another_model_is_refused(folder, tmp_path, tiny, minilm):
    other = saa.attach(tiny("bert", vocab_size=40_000), minilm.tokenizer)
    config = TokenConfig(steps=(1, 1), batch=4, longest=32)
    rows = [
        LabelledText(text, label, s)
        for text, label in reviews(9)
        for s in ("train", "validation", "test")
    ]
    with pytest.raises(saa.GateError, match=r"teacher=.*not a valid task folder"):
        TaskTraining(minilm, "tone", rows, config, teacher=tmp_path)
    with pytest.raises(saa.GateError, match=r"teacher=.*(does not fit|another model)"):
        TaskTraining(other, "tone", rows, config, teacher=folder)


def test_where_no_share_is_good_enough_the_dense_side_is_the_default(minilm, tmp_path):
    model = saa.load("minilm", device="cpu")
    known = [
        LabelledText(text, label, ("train", "validation", "test")[index % 3])
        for index, (text, label) in enumerate(reviews(90))
    ]
    config = TokenConfig(steps=(12, 2), batch=8, rate=3e-3, longest=48)
    training = Unlearnt(model, "tone", known, config)
    for _ in training.steps():
        pass
    rows = training.finish(tmp_path / "tone", training={"command": "test"})
    assert [row.wanted for row in rows] == [1.0, 0.7, 0.5, 0.35]
    loaded = saa.load("minilm", task=tmp_path / "tone", device="cpu")
    assert loaded.spec.policy.tokens is None
    assert not any(token_gates(packing_of(loaded)))
    with pytest.raises(saa.PolicyError, match="limit=0"):
        TaskTraining(model, "tone", known, config, limit=0)


def test_operations_are_those_of_the_layers(tone):
    """Counted again from the model's configuration."""
    config = tone.hf.config
    E, F = config.hidden_size, config.intermediate_size
    needed = [20, 12, 12, 9, 5, 2]
    gate = 2 * (E * 32 + 32)
    expected = sum(2 * n * (4 * E * E + 2 * E * F) + 4 * E * n * n for n in needed)
    expected += gate * sum(needed[:-1])
    assert encoder_flops(tone, needed) == expected


def test_texts_that_are_not_clear_go_to_the_dense_side(folder, tone):
    dense = saa.load("minilm", task=folder, side="dense", device="cpu")
    texts = [text for text, _ in reviews(40)] + ["The door.", "It was a film, and it was shown."]
    bare = saa.Policy(mass=1.0, tokens=0.5)
    plain = list(classify(tone, texts, bare))
    apart = [abs(2 * max(p.probabilities.values()) - 1) for p in plain]
    ranks = sorted(apart)  # the widest gap, so that rounding moves no text across it
    _, middle = max((b - a, (a + b) / 2) for a, b in itertools.pairwise(ranks))
    policy = replace(bare, guard=saa.Guard(missed_mass=None, margin=middle))
    found = list(classify(tone, texts, policy, batch=8))
    assert 0 < sum(p.dense for p in found) < len(texts)
    for guarded, sparse, full, margin in zip(
        found, plain, classify(dense, texts), apart, strict=True
    ):
        assert guarded.dense == (margin < middle)
        expected = full if guarded.dense else sparse
        assert guarded.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
        assert guarded.flops_share == pytest.approx(sparse.flops_share + guarded.dense, abs=1e-6)
    always = replace(bare, guard=saa.Guard(missed_mass=None, margin=1.0))
    assert all(p.dense for p in classify(tone, texts[:3], always))
    assert not any(p.dense for p in classify(dense, texts[:3], saa.Policy(mass=1.0)))
    trace = saa.run(tone, texts[0], always)
    assert trace.policy is None
    (event,) = trace.events
    assert (event["suspected"], event["done"], event["limit"]) == ("margin", "dense", 1.0)
    (answered,) = classify(tone, texts[:1], always)
    assert 1 + event["spent"] == pytest.approx(answered.flops_share, abs=1e-6)
    assert trace.label_probs == pytest.approx(saa.run(dense, texts[0]).label_probs, abs=1e-5)
    assert not saa.run(tone, texts[0], bare).events
    read = []
    query = tone.reference_model.hf.encoder.layer[0].attention.self.query
    hook = query.register_forward_hook(lambda *_: read.append(1))
    saa.measure(tone, (), (bare, always), text=texts[0], repeats=2, warm_up=False)
    hook.remove()
    assert len(read) == 2, "what the dense side takes is timed where it is asked"


def test_classify_from_the_command_line(folder, tmp_path, capsys, monkeypatch):
    table, out = tmp_path / "new.jsonl", tmp_path / "labels.csv"
    rows = reviews(6)
    table.write_text("".join(json.dumps({"say": text}) + "\n" for text, _ in rows))
    base = ["classify", "--task", str(folder), "--tokens", "0.6"]
    assert cli([*base, str(table), "--column", "say", "--out", str(out)]) == 0
    written = list(csv.DictReader(out.open()))
    assert [row["text"] for row in written] == [text for text, _ in rows]
    assert {row["label"] for row in written} <= {"good", "bad"}
    assert all(0 < float(row["flops_share"]) < 1 for row in written)
    assert "work done:" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", open(table))  # noqa: SIM115
    assert cli([*base, "-"]) == 0
    assert "%" in capsys.readouterr().out
    mixed = tmp_path / "mixed.csv"
    mixed.write_bytes(
        "本文;他\nとても良い, はい;1\n ;2\n{};3\n".format("good " * 600).encode("cp932")
    )
    given = [*base, str(mixed), "--text", "本文"]
    assert cli(given) == 0
    printed = capsys.readouterr()
    first, second, third = printed.out.splitlines()
    assert second == "\t", "a row without a text keeps its line"
    assert {first.split("\t")[0], third.split("\t")[0]} <= {"good", "bad"}
    assert "saa: mixed.csv: Shift-JIS (cp932), separated by semicolons, 3 rows\n" in printed.err
    assert "saa: mixed.csv: 1 row has no text: no label either (row 2)\n" in printed.err
    assert (
        "saa: 1 of 2 texts is longer than 48 tokens and cut there; the first is row 3\n"
        in printed.err
    )
    assert cli([*given, "--no-cut"]) == 1
    refused = "saa: row 3 has 602 tokens, and 512 is the limit; without --no-cut it is cut\n"
    assert refused in capsys.readouterr().err
    assert cli([*base, str(table)]) == 1
    assert "column 'text' is missing; the columns are: say" in capsys.readouterr().err
    assert cli(["classify", "--task", "nothing", str(table), "--column", "say"]) == 1
    assert (
        "task='nothing' is neither a folder with task.json nor shipped" in capsys.readouterr().err
    )


def test_broken_task_folders_are_refused(folder, tmp_path, tone):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "sparse" / "head.safetensors").unlink()
    with pytest.raises(saa.GateError, match="copy"):
        saa.load("minilm", task=copy)
    about = json.loads((folder / "task.json").read_text())
    (copy / "task.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(saa.GateError, match="format 99"):
        saa.load("minilm", task=copy)
    for change in ({"labels": 3}, {"labels": ["one"]}, {"layers": 7}, {"policy": {"mass": 9}}):
        (copy / "task.json").write_text(json.dumps(about | change))
        with pytest.raises(saa.GateError, match="copy"):
            saa.load("minilm", task=copy)
    (copy / "task.json").write_text("[]")
    with pytest.raises(saa.GateError, match="copy"):
        saa.load("minilm", task=copy)
    with pytest.raises(saa.ModelError, match="side='dense' belongs to a task"):
        saa.load("minilm", side="dense")
    with pytest.raises(saa.PolicyError, match="one string"):
        list(classify(tone, "hello"))
    with pytest.raises(saa.PolicyError, match="batch=0"):
        list(classify(tone, ["hello"], batch=0))
    with pytest.raises(saa.ModelError, match="side='both' is not known"):
        saa.load("minilm", task=folder, side="both")
    with pytest.raises(saa.TextError, match=r"texts\[1\] is empty"):
        list(classify(tone, ["fine", " "]))
    with pytest.raises(saa.ModelError, match="loaded for no task"):
        list(classify(saa.load("minilm", device="cpu"), ["text"]))
    with pytest.raises(saa.TextError, match="at most 512"):
        list(classify(tone, ["word " * 600]))
    (short,) = classify(tone, ["word " * 600], cut=True)
    assert short.tokens == 48
    assert torch.isfinite(encode(tone, [[101, 102]]).means).all()
