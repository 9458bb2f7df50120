"""Quality, encoder and choice of a default, on tiny input; never that they are good."""

import json

import pytest

import saa_core as saa
from benchmarks.quality.quality import choose
from saa_core.run.timing import crossover
from tests.benchmarks.started import start


def test_quality(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "quality.json"
    text.write_text(novel[:12_000], encoding="utf-8")
    arguments = ["--lengths", "64", "--masses", "0.5", "--windows", "2", "--texts", str(text)]
    start("quality.quality", monkeypatch, *arguments, "--out", str(out))
    (row,) = json.loads(out.read_text())
    assert row["lo"] <= row["ppl_increase_pct"] <= row["hi"]
    assert 0 < row["density"] < 1
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    arguments[3] = "0.9"
    start("quality.quality", monkeypatch, *arguments, "--out", str(out))
    assert [row["mass"] for row in json.loads(out.read_text())] == [0.5, 0.9]


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_encoder(tmp_path, monkeypatch, novel, minilm):
    text, out = tmp_path / "text.txt", tmp_path / "encoder.json"
    text.write_text(novel[:4_000], encoding="utf-8")
    arguments = ["--lengths", "48", "--masses", "0.7", "--windows", "2", "--texts", str(text)]
    start("quality.encoder", monkeypatch, *arguments, "--out", str(out))
    rows = json.loads(out.read_text())
    assert [row["granularity"] for row in rows] == ["pair", "block"]
    for row in rows:
        assert 0.5 < row["lo"] <= row["cosine"] <= row["hi"] <= 1
        assert 0 < row["density"] <= row["retained_mass"] <= 1
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    arguments[3] = "0.9"
    start("quality.encoder", monkeypatch, *arguments, "--out", str(out))
    again = json.loads(out.read_text())
    assert again[:2] == rows, "what was measured stays"
    assert [row["mass"] for row in again] == [0.7, 0.7, 0.9, 0.9]


def test_choice_and_crossover(monkeypatch):
    rows = [
        {"mass": mass, "ppl_increase_pct": increase}
        for mass, increase in [(0.9, 0.5), (0.9, 1.2), (0.95, 0.3), (0.95, 0.9), (0.98, 0.1)]
    ]
    assert choose(rows) == 0.95
    assert choose(rows[:2]) is None

    def timing(length: int, samples: tuple[float, ...]) -> saa.Timing:
        return saa.Timing(
            "", length, samples, samples, {}, "cpu", "float32", 2, "", 0.0, None, {}, 1.0
        )

    timings = []
    for length, ratio in ((512, 1.1), (1024, 0.8), (2048, 1.5), (4096, 2.0)):
        timings += [timing(length, (100.0 * ratio,) * 3), timing(length, (100.0,) * 3)]
    assert crossover(timings) == 2048
    with pytest.raises(ValueError, match="argument"):
        timings[0].ratio(timing(512, (1.0,)))
