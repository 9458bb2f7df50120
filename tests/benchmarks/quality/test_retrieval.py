"""Facts hidden in a long text and asked for, on tiny input."""

import json
from statistics import fmean

import pytest
import torch

import saa_core as saa
from benchmarks.quality import needles, retrieval
from tests.benchmarks.started import start


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_retrieval(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "retrieval.json"
    text.write_text(novel, encoding="utf-8")
    arguments = ["--lengths", "400", "--texts", "2", "--source", str(text), "--out", str(out)]
    arguments += ["--questions", "together", "apart", "two facts"]
    arguments += ["--methods", "SAA, distilled", "sink + window", "antidiagonal"]
    start("quality.retrieval", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    methods = ["dense", "SAA, distilled", "sink + window", "antidiagonal"]
    ways = ("together", "apart", "two facts")
    expected = [(way, method) for way in ways for method in methods]
    assert [(row["questions"], row["method"]) for row in rows] == expected
    for row in rows:
        asked = 5 if row["questions"] == "two facts" else 10
        assert [len(one) for one in row["margins_nats"]] == [asked, asked]
    for dense, sparse, *rules in (rows[:4], rows[4:8], rows[8:]):
        assert fmean(dense["densities"]) == 1.0
        assert fmean(sparse["densities"]) < 1
        for rule in rules:
            assert fmean(rule["densities"]) == pytest.approx(fmean(sparse["densities"]), abs=0.15)
    assert fmean(retrieval.hits(rows[0])) > 0.3, "chance is one in twenty"
    lost, low, high = retrieval.against(rows[1], rows[0])
    assert low <= lost <= high
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    written = out.read_bytes()
    start("quality.retrieval", monkeypatch, *arguments)
    assert out.read_bytes() == written, "nothing is measured twice"


def test_a_haystack_has_its_length_and_asks_before_it_answers(novel, smollm2):
    decode = smollm2.tokenizer.decode
    text_ids = smollm2.tokenize(novel)
    hay = needles.Haystack(smollm2, text_ids, 500, seed=1)
    assert hay.tokens.shape == (1, 500)
    ids = hay.tokens[0].tolist()
    for sentence, question in zip(hay.sentences, hay.questions, strict=True):
        (point,) = question.points
        said = sentence.strip().rpartition(" ")[0]
        assert decode(ids[: point.at + 1]).endswith(said)
        assert sentence in decode(ids[: point.at])
    apart = needles.Haystack(smollm2, text_ids, 500, seed=1, way="apart")
    assert apart.tokens.shape == (1, 500)
    call = saa.Call(saa.Policy(mass=1.0))
    margins = needles.margins(smollm2, apart, call)
    for at in (0, 9):  # as if text and question had been read in one go
        (point,) = apart.questions[at].points
        whole = torch.cat([apart.tokens, torch.tensor([apart.questions[at].ids])], 1)
        with torch.inference_mode():
            logits = smollm2.hf(whole).logits[0, -1]
        assert margins[at] == pytest.approx(point.margin(logits), abs=2e-2)


def test_two_facts_stand_apart_and_both_must_be_found(novel, smollm2):
    hay = needles.Haystack(smollm2, smollm2.tokenize(novel), 600, seed=3, way="two facts")
    text = smollm2.tokenizer.decode(hay.tokens[0])
    assert len(hay.questions) == 5
    for question in hay.questions:
        asked = smollm2.tokenizer.decode(question.ids).strip()
        person, _, rest = asked.partition(" was seen in ")
        city = rest.partition(".")[0]
        assert f"{person} was seen in {city}." in text
        (told,) = (s for s in hay.sentences if s.startswith(f" The password of {city} is"))
        assert person not in told
        first, second = question.points
        assert needles.CITIES[first.right] == city
        assert needles.WORDS[second.right] in told
    margins = needles.margins(smollm2, hay, saa.Call(None))
    assert len(margins) == 5
