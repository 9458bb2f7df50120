"""Latency, prefill and load, on tiny input; never that they are fast."""

import json
import runpy
import sys

import pytest

import saa_core as saa
from tests.benchmarks.started import start


def test_latency(tmp_path, monkeypatch, smollm2):
    out = tmp_path / "latency.json"
    start(
        "speed.latency", monkeypatch, "--lengths", "32", "48", "--repeats", "2", "--out", str(out)
    )
    timings = [saa.Timing(**row) for row in json.loads(out.read_text())]
    assert [(timing.name == "dense", timing.length) for timing in timings] == [
        (True, 32),
        (False, 32),
        (True, 48),
        (False, 48),
    ]
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_a_text_under_the_crossover_is_timed_dense(tmp_path, monkeypatch, smollm2):
    out = tmp_path / "latency.json"
    arguments = ["--lengths", "40", "--repeats", "1", "--fallback", "dense", "--out", str(out)]
    start("speed.latency", monkeypatch, *arguments)
    assert [row["kernel"] for row in json.loads(out.read_text())] == ["dense", "dense"]


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_prefill(tmp_path, monkeypatch, smollm2):
    frontier, out = tmp_path / "frontier.json", tmp_path / "prefill.json"
    point = {"method": "SAA, distilled", "length": 600, "text": "a"}
    points = [(0.8, 0.2, 3.0), (0.9, 0.3, 0.9), (0.95, 0.4, 0.4)]
    rows = [
        point | {"aim": aim, "density": density, "ppl_increase_pct": increase}
        for aim, density, increase in points
    ]
    frontier.write_text(json.dumps(rows))
    arguments = ["--lengths", "600", "700", "--repeats", "2", "--frontier", str(frontier)]
    start("speed.prefill", monkeypatch, *arguments, "--out", str(out))
    found = json.loads(out.read_text())
    assert [(row["length"], row["dtype"]) for row in found] == [(600, "float32"), (600, "bfloat16")]
    for row in found:
        assert row["policy"] == "mass 0.9"
        assert (row["density"], row["ppl_increase_pct"]) == (0.3, 0.9)
        assert row["efficiency"] == pytest.approx(row["attention_ratio"] * row["density_timed"])
        assert len(row["samples_ms"]["saa"]) == 2
        assert sum(row["stages_ms"]["saa"].values()) > 0
    assert found[0]["samples_ms"]["dense, attention in float32"] is None
    assert len(found[1]["samples_ms"]["dense, attention in float32"]) == 2
    assert out.with_suffix(".svg").read_text().startswith("<svg")


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_load(tmp_path, monkeypatch, minilm, asked_table):
    out = tmp_path / "load.json"
    arguments = ["--task", "questions", "--data", asked_table, "--shares", "0.55", "--start", "40"]
    arguments += ["--limit", "400", "--seconds", "0.5", "--repeats", "1", "--out", str(out)]
    load = runpy.run_module("benchmarks.speed.load")
    monkeypatch.setitem(load["highest"].__globals__, "STEP", 8.0)
    monkeypatch.setattr(sys, "argv", ["load", *arguments])
    load["main"]()
    rows = json.loads(out.read_text())
    assert [row["side"] for row in rows] == ["dense, padded", "dense, packed", "0.55", "default"]
    for row in rows:
        assert row["rate"] in {0.0, *(tried["rate"] for tried in row["tried"])}
        held = [t for t in row["tried"] if t["rate"] == row["rate"]]
        assert all(t["p95_ms"] <= 400 and t["p50_ms"] <= t["p95_ms"] for t in held)
        assert all(1 <= t["mean_batch"] <= 32 for t in row["tried"])
    assert out.with_suffix(".svg").is_file()
