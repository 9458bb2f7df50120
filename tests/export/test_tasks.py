"""The tasks that ship, exported, on real texts: the tokens that are kept and the labels are PyTorch's."""

from pathlib import Path

import numpy as np
import pytest

import saa_core as saa
from saa_core.cli.main import main
from saa_core.data import fetch
from saa_core.run.classify import classify, token_ids
from saa_core.run.execute import execute

pytestmark = pytest.mark.model
TASKS = ("facts", "questions", "reviews", "sentences", "spam")
SMALL = 3000
"""Characters of the examples that are read whole; of a longer one the paragraphs are."""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found = []
    for file in sorted((fetch.assets() / "examples").glob("*.txt")):
        text = file.read_text(encoding="utf-8")
        found += [text] if len(text) < SMALL else text.split("\n\n")[:20]
    found = [text for text in found if text.strip()]
    assert len(found) > 50
    return found


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=() if task == "questions" else pytest.mark.long) for task in TASKS],
)
def test_an_exported_task_decides_as_in_pytorch(task, texts, tmp_path):
    """All texts: the label, and how many tokens each layer computes; some: which ones those are."""
    model = saa.load("minilm", task=task, device="cpu")
    engine = saa.open_engine(saa.export(model, tmp_path / task), threads=1)
    policy, margin = model.spec.policy, engine.about.margin
    found = engine.classify(texts, cut=True)
    expected = list(classify(model, texts, cut=True))
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.tokens, one.dense) == (other.label, other.tokens, other.dense)
        assert one.token_share == pytest.approx(other.token_share)
        assert one.flops_share == pytest.approx(other.flops_share)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    assert 0 < np.mean([prediction.token_share for prediction in found]) < 0.9
    for share in (policy.tokens, 0.7):
        ids = [token_ids(model, text, 0, 128) for text in texts[::7]]
        answered = engine.answer(ids, share, margin)
        for row, own in zip(answered.layers, ids, strict=True):
            bare = saa.Policy(mass=1.0, tokens=share)
            layers = execute(model, [own], bare, "summary").call.layers
            kept = np.concatenate([layers[at].kept_tokens.numpy() for at in sorted(layers)])
            assert (kept == (row[: len(own)] > np.arange(len(kept))[:, None])).all()


QUESTIONS = [
    f"{question} [SEP] {answer}"
    for question, answer in (
        *[(f"Where was {what} built?", "Lisbon") for what in ("the ship", "the first bridge")],
        *[(f"How many {what} were there?", "4,200") for what in ("soldiers", "houses", "hours")],
        *[(f"Who {what}?", "Ida Brenner") for what in ("won the prize", "led them", "wrote it")],
        *[(f"When did {what}?", "in 1815") for what in ("the war end", "he arrive", "it open")],
        *[(f"What company {what}?", "Siemens") for what in ("made the train", "bought it")],
        *[(f"What river {what}?", "the Danube") for what in ("flows there", "did they cross")],
        *[(f"How much {what}?", "$3 million") for what in ("did it cost", "was paid")],
    )
]


def test_int8_from_the_command_line(tmp_path, capsys):
    """The folder is smaller, and what is asked in its own words is answered as before."""
    folder = tmp_path / "questions"
    assert main(["export", "--task", "questions", "--int8", "--out", str(folder)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"exported: {folder}"
    assert second.startswith("int8 on 305 test texts: 9"), "almost all labels are float32's"
    assert (folder / "model.onnx").stat().st_size < 75e6
    model = saa.load("minilm", task="questions", device="cpu")
    found = saa.open_engine(folder, threads=1).classify(QUESTIONS)
    expected = list(classify(model, QUESTIONS))
    assert [a.label for a in found] == [b.label for b in expected]
    assert len({prediction.label for prediction in found}) > 5


def test_a_language_model_is_refused(smollm2, tmp_path: Path):
    with pytest.raises(saa.ModelError, match="is a language model"):
        saa.export(smollm2, tmp_path / "out")
