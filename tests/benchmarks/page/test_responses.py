"""How long people wait: what was measured is kept, sample by sample; and one press in Chromium."""

import json

import pytest

from benchmarks.page.responses import Log
from tests.benchmarks.started import start


def test_samples_that_are_there_are_not_taken_again(tmp_path):
    file, taken = tmp_path / "responses.json", []

    def measure(turn: int) -> dict[str, object]:
        taken.append(turn)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return {"first": 10.0 * turn}

    with pytest.raises(KeyboardInterrupt):
        Log(file, "after").samples("run", 5, measure)
    assert [each["first"] for each in json.loads(file.read_text())["after"]["run"]["samples"]] == [
        0,
        10,
    ]
    Log(file, "after").samples("run", 3, measure)
    Log(file, "before").samples("run", 1, measure)
    assert taken == [0, 1, 2, 2, 0]
    found = json.loads(file.read_text())
    assert [each["first"] for each in found["after"]["run"]["samples"]] == [0, 10, 20]
    assert len(found["before"]["run"]["samples"]) == 1
    assert found["before"]["machine"]["processor"]
    assert all("load" in each for each in found["after"]["run"]["samples"])


@pytest.mark.long  # the other browser tests serve the app by the same code
@pytest.mark.timeout(900)
def test_one_press(tmp_path, monkeypatch, chromium):
    out = tmp_path / "responses.json"
    start("page.responses", monkeypatch, "--what", "run", "--samples", "1", "--out", str(out))
    (sample,) = json.loads(out.read_text())["after"]["run"]["samples"]
    assert 0 < sample["first"] <= sample["rest"]
    assert sample["errors"] == 0
