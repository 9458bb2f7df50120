"""The acceptance of the backend on tiny input: each part answers what it is asked, and the file is written."""

import json

import pytest

from benchmarks.serve import serve
from benchmarks.serve.crowd import percentiles

pytestmark = pytest.mark.model


def test_parts_against_a_server(tmp_path):
    out = tmp_path / "serve.json"
    given = ["--minutes", "0.03", "--clients", "3", "--task", "minilm + spam", "--writer", ""]
    serve.main([*given, "--parts", "load", "faults", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["load"]["only_expected"]
    assert found["load"]["statuses"]["200"] == found["load"]["answered"] > 0
    assert found["load"]["idle_afterwards"]
    for fault, own in found["faults"].items():
        assert own["right"] == own["answers"], fault
        assert own["all_dense"]
        assert own["breaker_open"]
        assert own["reasons"][-1] == "breaker"


@pytest.mark.long  # the same through the test client: tests/serve/test_door.py
def test_hostile_requests_against_a_server(tmp_path):
    out = tmp_path / "serve.json"
    given = ["--minutes", "0.03", "--task", "minilm + spam", "--writer", ""]
    serve.main([*given, "--parts", "hostile", "--out", str(out)])
    found = json.loads(out.read_text())["hostile"]
    assert found["refused"]
    assert found["still_answers"]
    assert found["slow_header_closed"]


def test_percentiles():
    found = percentiles(range(1, 101))
    assert (found["p50_ms"], found["p95_ms"], found["p99_ms"]) == (51, 96, 100)
    assert percentiles([])["answered"] == 0
