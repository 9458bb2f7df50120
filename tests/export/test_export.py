"""What is exported decides as PyTorch does: the same tokens in each layer, the same answers."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.export.engine import needed_tokens
from saa_core.run.classify import answers, classify
from saa_core.run.execute import execute
from tests.export.tiny import LABELS, LONGEST, SHARES


def draw_texts(draw: random.Random, count: int, most: int = 70) -> list[str]:
    return [
        " ".join(f"w{draw.randrange(4, 97)}" for _ in range(draw.randint(1, most)))
        for _ in range(count)
    ]


def policy(share: float, margin: float = 0.0) -> saa.Policy:
    guard = saa.Guard(missed_mass=None, margin=margin) if margin else None
    return saa.Policy(mass=1.0, tokens=share, guard=guard)


def kept(model: saa.Model, ids: list[int], share: float) -> np.ndarray:
    """Tokens that each layer computes, by PyTorch, bool [L, N]."""
    layers = execute(model, [ids], policy(share), "summary").call.layers
    return np.concatenate([layers[at].kept_tokens.numpy() for at in sorted(layers)])


def test_decisions_equal_those_of_pytorch(model, engine):
    """Over random lengths, shares and sizes of a batch."""
    draw, dropped = random.Random(0), 0
    for _ in range(25):
        share = draw.choice([1.0, SHARES[0], 0.5, draw.uniform(*SHARES)])
        ids = engine.encode(draw_texts(draw, draw.choice([1, 1, 2, 3, 9]), draw.choice([3, 70])))
        found = engine.answer(ids, share, 0.0)
        expected = answers(model, ids, policy(share))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
        assert needed_tokens(found.layers, 4).tolist() == expected.needed.tolist()
        for row, own in zip(found.layers, ids, strict=True):
            computed = row[: len(own)] > np.arange(4)[:, None]
            assert (computed == kept(model, own, share)).all()
            assert not row[len(own) :].any()
            dropped += (~computed).sum()
    assert dropped > 1000, "gates that drop nothing show nothing"


@pytest.mark.parametrize("margin", [None, 0.0, 0.3, 1.0])
def test_the_same_predictions(model, engine, margin):
    """Unclear texts are answered by the reference, and everything that is said about a text is the same."""
    texts = draw_texts(random.Random(1), 40)
    own = policy(0.5, 0.1 if margin is None else margin)
    expected = list(classify(model, texts, own))
    found = engine.classify(texts, margin=margin, batch=7)
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.tokens, one.dense) == (other.label, other.tokens, other.dense)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert one.token_share == pytest.approx(other.token_share, abs=1e-6)
        assert one.flops_share == pytest.approx(other.flops_share, abs=1e-6)
    asked = sum(prediction.dense for prediction in found)
    assert {0.0: asked == 0, 1.0: asked == 40}.get(margin, 0 < asked < 40)
    assert len({prediction.label for prediction in found}) > 1


def test_the_reference_is_opened_when_it_is_asked(exported):
    engine = saa.open_engine(exported, threads=1)
    engine.classify(["w4 w5"], margin=0.0)
    assert engine._reference_session is None
    engine.classify(["w4 w5"], margin=1.0)
    assert engine._reference_session is not None


def test_texts_are_cut_where_pytorch_cuts_them(model, engine):
    texts = draw_texts(random.Random(2), 3, 200)
    found = engine.classify(texts, 0.6, 0.0, cut=True)
    expected = list(classify(model, texts, policy(0.6), cut=True))
    assert [p.tokens for p in found] == [p.tokens for p in expected]
    assert max(p.tokens for p in found) == LONGEST
    for one, other in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_record_is_the_one_that_pytorch_makes(model, engine, margin, tmp_path):
    """A summary that the store takes, and that says what was kept and answered."""
    text = "w10 w20  w30 w4 w77 w8 w9 w54 w3"
    found = engine.run(text, 0.5, margin)
    expected = saa.run(model, text, policy(0.5, margin), record="summary")
    for name in ("text", "tokens", "offsets", "policy", "block", "labels", "label"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("token_ids", "kept_tokens", "allowed_pairs", "targets"):
        assert (getattr(found, name) == getattr(expected, name)).all(), name
    for name in ("density", "predicted_mass", "label_probs"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)
    assert found.execution.kernel == "onnxruntime"
    assert len(found.events) == len(expected.events) == (margin > 0)
    for one, other in zip(found.events, expected.events, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    store = saa.Store(tmp_path / "store")
    run = store.add(found)
    assert (store.get(run).kept_tokens == found.kept_tokens).all()
    (row,) = store.query("SELECT label FROM runs").to_pylist()
    assert row["label"] == found.label


def test_a_folder_is_replaced_as_a_whole_and_others_are_left_alone(model, exported, tmp_path):
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(saa.PolicyError, match="not written by saa export"):
        saa.export(model, other)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    broken = replace(model, load_reference=lambda: replace(model.reference_model, task=None))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in exported.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    with pytest.raises(AssertionError):  # when model.onnx has been written
        saa.export(broken, copy)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "copy"}


def test_what_cannot_be_exported_is_refused_in_words(model, tiny, tmp_path):
    language = saa.attach(tiny("llama"))
    with pytest.raises(saa.ModelError, match="is a language model; only encoders with a task"):
        saa.export(language, tmp_path / "out")
    with pytest.raises(saa.ModelError, match="loaded for no task"):
        saa.export(replace(model, task=None), tmp_path / "out")
    with pytest.raises(saa.ModelError, match="side='sparse'"):
        saa.export(model.reference_model, tmp_path / "out")
    pairs = replace(model.task, policy=saa.Policy(mass=0.9, tokens=0.5))
    with pytest.raises(saa.PolicyError, match="pair gates"):
        saa.export(replace(model, task=pairs), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_says_what_it_is(exported):
    about = json.loads((exported / "saa.json").read_text())
    assert tuple(about["labels"]) == LABELS
    assert (about["task"], about["share"], about["margin"]) == ("toys", 0.5, 0.1)
    assert about["fingerprints"]["sparse"]["weights"] != about["fingerprints"]["dense"]["weights"]
    assert about["versions"]["torch"] == torch.__version__
    assert {path.name for path in exported.iterdir()} == {"saa.json", *about["files"]}
