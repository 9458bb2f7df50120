"""Tasks of language understanding, on a tiny table; and their tables."""

import json

import pytest

from benchmarks.publish.tables_tasks import (
    japanese_table,
    seeds_table,
    shift_table,
    understanding_table,
)
from tests.benchmarks.started import start


def test_understanding(tmp_path, monkeypatch, minilm, asked_table):
    out = tmp_path / "understanding.json"
    arguments = ["--tasks", "questions", "--data", asked_table, "--shares", "0.7", "0.5"]
    arguments += ["--flips", str(tmp_path / "flips")]
    arguments += ["--singles", "2", "--rounds", "2", "--out", str(out)]
    start("tasks.understanding", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    first, second = (next(row for row in rows if row["tokens"] == share) for share in (0.7, 0.5))
    assert second["flops_share"] < first["flops_share"] < 1
    assert all(row["task"] == "questions" and row["data"] == asked_table for row in rows)
    assert sum(row["default"] for row in rows) == 1
    for row in (first, second):
        assert row["accuracy"] > 0.5
        assert row["dense_accuracy"] > 0.5
        share = str(row["tokens"])
        assert set(row["round_ms"]["b1"]) == {"dense, padded", "dense, packed", share}
        assert len(row["round_ms"]["b32"][share]) == 2, "rounds, the warm-up left out"
        assert row["latency_ms_b1"][share]["p50"] <= row["latency_ms_b1"][share]["p90"]
        flips = row["flips"]
        wrong = row["texts"] * (row["dense_accuracy"] - row["accuracy"])
        assert flips["right_to_wrong"] - flips["wrong_to_right"] == pytest.approx(wrong)
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_without_times_the_answers_are_counted_all_the_same(
    tmp_path, monkeypatch, minilm, asked_table
):
    out = tmp_path / "understanding.json"
    arguments = ["--tasks", "questions", "--data", asked_table, "--shares", "0.7", "--no-times"]
    start("tasks.understanding", monkeypatch, *arguments, "--out", str(out))
    rows = json.loads(out.read_text())
    assert len(rows) == 2
    assert all(row["accuracy"] > 0.5 and row["flops_share"] < 1 for row in rows)
    assert not any("ratio" in name or "ms" in name for row in rows for name in row)
    assert "throughput" not in out.with_suffix(".svg").read_text()
    (first, *_) = japanese_table(rows).splitlines()[2:]
    assert first.startswith(f"| questions (questions) | {asked_table} ({asked_table}) | ")


def test_seeds_are_averaged_before_tasks_and_other_texts_left_out(monkeypatch):

    def row(task, seed, tokens, accuracy, data=None):
        about = {
            "task": task,
            "seed": seed,
            "data": data or task,
            "tokens": tokens,
            "default": tokens == 0.6,
            "margin": 0.0,
        }
        about |= {"difference_lo": -0.8, "difference_hi": -0.6, "changed": 0.75, "asked": 0.25}
        for name in ("throughput", "latency"):
            batch = "b32" if name == "throughput" else "b1"
            about |= {f"{name}_ratio_{batch}": 2.0, f"{name}_quartiles": [1.5, 2.5]}
        return about | {"flops_share": tokens, "accuracy": accuracy, "dense_accuracy": 0.8}

    rows = [row("a", 0, 0.6, 0.80), row("a", 1, 0.6, 0.78), row("b", 0, 0.6, 0.82)]
    rows += [row("a", 0, share, 0.8) for share in (1.0, 0.7, 0.5, 0.35)]
    rows.append(row("a", 0, 0.6, 0.1, data="b"))
    table = seeds_table(rows)
    assert "| 0.6 | 2 | 1 to 2 | 60 % | +0.50 | a (-1.0) |" in table
    assert "| each task's default | 2 | 1 to 2 | 60 % | +0.50 | a (-1.0) |" in table
    assert "| 0.35 | 1 | 1 | 35 % | +0.00 | a (+0.0) |" in table
    (shipped,) = understanding_table(rows, {"a": 1}).splitlines()[2:]
    assert shipped == (
        "| a | 0.6, the default | 25 % | 60 % | 78.0 % | 80.0 % | -2.0 (-80.0 to -60.0) "
        "| 2.00 (1.50 to 2.50) | 2.00 (1.50 to 2.50) |"
    )
    (shifted,) = shift_table(rows).splitlines()[2:]
    assert shifted == (
        "| a | b | 0 | 0.6, the default | 25 % | 60 % | 10.0 % | 80.0 % | -70.0 (-80.0 to -60.0) | 75.0 % |"
    )
