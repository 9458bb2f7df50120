"""Facts hidden in a long text and asked for, on tiny input."""

import json

import pytest
import torch

import saa_core as saa
from benchmarks.quality import retrieval
from tests.benchmarks.started import start


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_retrieval(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "retrieval.json"
    text.write_text(novel, encoding="utf-8")
    arguments = ["--lengths", "400", "--texts", "2", "--source", str(text), "--out", str(out)]
    start("quality.retrieval", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    assert [(row["questions"], row["method"]) for row in rows] == [
        ("together", "dense"),
        ("together", "SAA, distilled"),
        ("apart", "dense"),
        ("apart", "SAA, distilled"),
    ]
    for dense, sparse in (rows[:2], rows[2:]):
        assert (dense["density"], dense["trials"]) == (1.0, 20)
        assert sparse["density"] < 1
        assert dense["accuracy"] > 0.3, "chance is one in twenty"
    for row in rows:
        assert row["lo"] <= row["accuracy"] <= row["hi"]
        assert sum(row["by_depth"]) / 10 == pytest.approx(row["accuracy"])
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    written = out.read_bytes()
    start("quality.retrieval", monkeypatch, *arguments)
    assert out.read_bytes() == written, "nothing is measured twice"


def test_a_haystack_has_its_length_and_asks_before_it_answers(monkeypatch, novel, smollm2):
    hay = retrieval.Haystack(smollm2, smollm2.tokenize(novel), 500, seed=1)
    assert hay.tokens.shape == (1, 500)
    ids = hay.tokens[0].tolist()
    for name, answer, at in zip(hay.names, hay.answers, hay.asked, strict=True):
        word = retrieval.WORDS[answer]
        assert smollm2.tokenizer.decode(ids[: at + 1]).endswith(f"The password of {name} is")
        assert f"password of {name} is {word}." in smollm2.tokenizer.decode(ids[:at])
    apart = retrieval.Haystack(smollm2, smollm2.tokenize(novel), 500, seed=1, way="apart")
    assert apart.tokens.shape == (1, 500)
    assert apart.asked == []
    for name, question in zip(apart.names, apart.questions, strict=True):
        assert smollm2.tokenizer.decode(question).endswith(f"The password of {name} is")
    call = saa.Call(saa.Policy(mass=1.0))
    margins = retrieval.right(smollm2, apart, call)
    for at in (0, 9):  # as if text and question had been read in one go
        whole = torch.cat([apart.tokens, torch.tensor([apart.questions[at]])], 1)
        with torch.inference_mode():
            logits = smollm2.hf(whole).logits[0, -1, retrieval.first_tokens(smollm2)]
        others = torch.cat([logits[: apart.answers[at]], logits[apart.answers[at] + 1 :]])
        expected = float(logits[apart.answers[at]] - others.max())
        assert margins[at] == pytest.approx(expected, abs=2e-2)
