"""Guards, promises, far texts and tuning, on tiny input; and their tables."""

import json

import pytest

from benchmarks.publish.tables_trust import far_table, promise_table, trust_table, tune_table
from benchmarks.trust.trust import fitting
from tests.benchmarks.started import questions, start


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_trust(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "trust.json"
    text.write_text(novel[:9_000], encoding="utf-8")
    arguments = ["--english", str(text), "--shifted", "one word", "--lengths", "80", "--count", "2"]
    arguments += ["--damaged", "1", "--cost-lengths", "90", "--repeats", "2", "--out", str(out)]
    start("trust.trust", monkeypatch, *arguments)
    found = json.loads(out.read_text())
    assert [(row["text"], row["shifted"], row["request"]) for row in found["requests"]] == [
        (str(text), False, 0),
        (str(text), False, 1),
        ("one word", True, 0),
        ("one word", True, 1),
    ]
    for row in (*found["requests"], *found["damages"]):
        assert row["guarded"]["missed"] <= row["guarded"]["bound"] <= found["limit"]
    damages = {row["damage"]: row for row in found["damages"]}
    assert damages["negated"]["blind"]["missed"] > 0.05
    assert {event[0] for event in damages["nan"]["guarded"]["events"]} == {"scores"}
    (cost,) = found["cost"]
    assert len(cost["timings"]) == 3
    assert cost["guard_ms"] > 0
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    start("trust.trust", monkeypatch, *arguments)  # nothing is left to measure
    assert json.loads(out.read_text()) == found
    assert "| one word | 2 |" in trust_table(found)


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_promise(tmp_path, monkeypatch, novel, smollm2):
    text, out, cache = tmp_path / "text.txt", tmp_path / "promise.json", tmp_path / "cache"
    text.write_text(novel, encoding="utf-8")
    tasks = ["--tasks", "questions", "--texts", "40", "--label-change", "0.4"]
    words = ["--adapters", "none", "--data", str(text), "--length", "24", "--windows", "6"]
    common = ["--settings", "10", "--splits", "3", "--cache", str(cache), "--out", str(out)]
    start("trust.promise", monkeypatch, *tasks, *words, *common)
    task, model = json.loads(out.read_text())
    assert (task["name"], model["name"]) == ("minilm + questions", "smollm2")
    for row in (task, model):
        assert len(row["splits"]) == 3
        assert row["kept"] == sum(each["loss"] <= 0.4 for each in row["splits"])
        assert {each["work"] for each in row["splits"] if each["policy"] == "dense"} <= {1.0}
    assert task["dense"] == 0, "four labels of ten may change"
    assert model["dense"] == 3, "three windows certify nothing"
    assert len(task["ladder"]) == 10

    assert out.with_suffix(".svg").read_text().startswith("<svg")
    lines = promise_table([task, model]).splitlines()[2:]
    assert lines[0].startswith("| minilm + questions | 40 % of labels changed | 40 |")
    assert "| 3 of 3 | 3 of 3 | 3 of 3 | 100 % |" in lines[1], (
        "what stays dense is kept and saves nothing"
    )

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("saa_core.certify.degradation.DegradationMeter.of", refuse)
    start("trust.promise", monkeypatch, *tasks, *words, *common, "--splits", "5")
    again, _ = json.loads(out.read_text())
    assert len(again["splits"]) == 5
    assert again["splits"][:3] == task["splits"]


@pytest.mark.model
def test_far(tmp_path, monkeypatch, novel):
    text, out = tmp_path / "text.txt", tmp_path / "far.json"
    text.write_text(novel[:9_000], encoding="utf-8")
    sizes = ["--lengths", "60", "--count", "4", "--checked", "1", "--out", str(out)]
    kinds = ["--english", str(text), "--shifted", "one word"]
    start("trust.far", monkeypatch, "--models", "minilm", *kinds, *sizes)
    found = json.loads(out.read_text())
    own, words = found["rows"]
    assert (own["far"], words["far"], words["count"]) == (0, 4, 4)
    assert min(words["ratios"]) > 1 > max(own["ratios"])
    (checked,) = found["checked"]
    once, twice = checked["once"], checked["twice"]
    assert ["input", "twice"] not in once["events"]
    assert ["input", "twice"] in twice["events"]
    assert max(side["bound"] for side in (once, twice)) <= 0.05
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    assert "| one word | 60 | 4 of 4 |" in far_table(found)


def test_a_text_shorter_than_asked_for_stays_whole(minilm):
    """What frames a text has no characters, and comes last."""
    assert fitting(minilm, "a short text", 50) == "a short text"
    assert fitting(minilm, "a short text", 2) == "a"


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_tune(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "tune.json"
    text.write_text(novel * 10, encoding="utf-8")
    task = ["--task", "questions", "--source", questions(tmp_path, 400), "--label-change", "0.5"]
    words = ["--data", str(text), "--length", "24", "--windows", "40", "--perplexity", "0.5"]
    common = ["--minutes", "0.05", "--trials", "3", "--folder", str(tmp_path), "--out", str(out)]
    start("trust.tune", monkeypatch, *task, *words, *common)
    labels, model = json.loads(out.read_text())
    assert [row["name"] for row in labels["rows"]][:2] == ["tuned", "shipped default"]
    assert {"mass 0.95", "mass 0.93", "mass 0.9"} < {row["name"] for row in model["rows"]}
    for domain in (labels, model):
        assert domain["compared"] >= 8
        for row in domain["rows"]:
            assert row["within"] == (row["loss"] <= domain["limit"])
            assert row["low"] <= row["loss"] <= row["high"]
        own = domain["rows"][0]
        for row in domain["rows"][1:]:
            beats = row["within"] and (not own["within"] or row["work"] < own["work"])
            assert (row["name"] in domain["better"]) == beats
    assert out.with_suffix(".svg").read_text().startswith("<svg")

    def refuse(*_, **__):
        raise AssertionError("tuned again")

    monkeypatch.setattr("saa_core.certify.tune.tune", refuse)
    start("trust.tune", monkeypatch, *task, *words, *common, "--domains", "task")
    assert json.loads(out.read_text())[1]["rows"] == labels["rows"]
    assert "50 % of labels changed | tuned: " in tune_table([labels, model])
