"""Rates that hold under load: what arrives when, and all of it on a tiny table."""

import json
import random
import statistics
import time

import pytest

from benchmarks.speed import load
from tests.benchmarks.started import start


@pytest.mark.parametrize("burst", [1, 8])
def test_texts_arrive_as_often_as_asked_and_in_bursts(burst):
    found = load.arrivals_of(100, 200, burst, random.Random(0))
    assert found == sorted(found)
    assert len(found) / 200 == pytest.approx(100, rel=0.1)
    assert len(found) / len(set(found)) == pytest.approx(burst, rel=0.1)


def test_the_highest_rate_that_holds_is_found(monkeypatch):
    """By steps from where it starts, up and down."""

    def serve(side, ids, rate, limit, seconds, seed, burst):
        return {"p95_ms": rate / burst, "answered": 1, "arrived": 1}

    monkeypatch.setattr(load, "serve", serve)
    for begin in (50, 100, 400):
        rate, tried = load.highest(print, ["a"], begin, 100, 1, 0, 2, 1.1)
        assert 200 / 1.1 < rate <= 200
        assert len(tried) > 1


def test_bursts_wait_longer():
    def side(texts):
        time.sleep(0.001 * len(texts))

    for_one, for_many = (
        statistics.median(
            load.serve(side, ["a"], 50, 1000, 1, seed, burst)["p50_ms"] for seed in range(3)
        )
        for burst in (1, 16)
    )
    assert for_many > 2 * for_one


@pytest.mark.long
@pytest.mark.model
def test_load_of_engines(tmp_path, monkeypatch, asked_table):
    out = tmp_path / "load.json"
    given = ["--task", "questions", "--data", asked_table, "--seconds", "0.2", "--start", "5"]
    given += ["--sides", "ONNX Runtime, SAA, float32", "--work", str(tmp_path / "work")]
    start("speed.load_peers", monkeypatch, *given, "--out", str(out))
    rows = json.loads(out.read_text())
    assert [(row["limit_ms"], row["arrivals"]) for row in rows] == [
        *((100, "poisson"), (100, "bursts"), (30, "poisson"), (30, "bursts"))
    ]
    assert all(row["tried"] for row in rows)
    start("speed.load_peers", monkeypatch, *given, "--out", str(out))
    assert json.loads(out.read_text()) == rows, "what was measured stays"
