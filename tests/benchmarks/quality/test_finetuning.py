"""An adapter against whole fine-tuning, three steps of each."""

import json

import pytest

from tests.benchmarks.started import start


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_finetuning(tmp_path, monkeypatch, minilm, asked_table):
    out = tmp_path / "finetuning.json"
    arguments = ["--tasks", "questions", "--data", asked_table, "--steps", "3"]
    start("quality.finetuning", monkeypatch, *arguments, "--rates", "0.0001", "--out", str(out))
    (row,) = json.loads(out.read_text())
    assert row["steps"] == 3
    assert row["adapter_accuracy"] > 0.5
    assert 0 <= row["full_accuracy"] <= 1
