"""What a visit holds in memory is bounded in bytes; what no longer fits is read back when it is asked for."""

import gc
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import saa_core as saa
from app.live import spill
from app.live.values import Compared, Request, Result
from app.state import session
from benchmarks.synthetic import synthetic

ROOT = Path(__file__).parents[3]
SIZE = synthetic(0, tokens=96).nbytes


def result(seed: int, dense: saa.Trace | None = None) -> Result:
    trace = replace(synthetic(seed, tokens=96), lm_head=lambda states: states)
    return Result(trace, Request("model", f"text {seed}", saa.Policy()), dense=dense)


def maps(trace: saa.Trace) -> np.ndarray:
    return np.stack([trace.maps(layer).score for layer in range(trace.shape[0])])


def files() -> set[Path]:
    gc.collect()
    return set(spill._folder().iterdir())


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict:
    found: dict = {}
    monkeypatch.setattr("streamlit.session_state", found)
    return found


def test_results_of_a_visit_are_bounded_in_bytes_and_read_back(state, monkeypatch) -> None:
    """Six results of long texts, pair by pair, were 3.5 GB."""
    limit = 2 * SIZE
    monkeypatch.setattr(spill, "MOST_BYTES", limit)
    before = files()
    given = [result(seed) for seed in range(5)]
    for each in given:
        session.remember(each)
        assert spill.held(state["results"].values()) <= limit
    assert list(state["results"]) == [each.request for each in given], "none is forgotten"
    assert len(files() - before) >= 3
    for each in given:
        found = session.recall(each.request)
        assert np.array_equal(maps(found.trace), maps(each.trace))
        assert found.trace.lm_head is each.trace.lm_head
    state.clear()
    found = None
    assert files() == before, "a file goes with the last trace that reads it"


def test_a_result_with_further_times_is_not_written_again(state, monkeypatch) -> None:
    monkeypatch.setattr(spill, "MOST_BYTES", 0)
    before, first = files(), result(1)
    for _ in range(3):
        session.remember(replace(first, trace=replace(first.trace, timing=())))
    assert len(files() - before) == 1
    kept = session.recall(first.request)
    session.remember(replace(kept, words="more"))
    again = session.recall(first.request)
    kept = None
    assert len(files() - before) == 1
    assert np.array_equal(maps(again.trace), maps(first.trace))


def test_a_dense_run_that_results_share_counts_once() -> None:
    dense = synthetic(9, tokens=96)
    assert spill.held([result(1, dense), result(2, dense)]) == 3 * SIZE


def test_what_cannot_be_written_is_forgotten_the_oldest_first(monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saa.Trace, "save", full)
    kept = {seed: result(seed) for seed in range(4)}
    spill.bound(kept, 6, 2 * SIZE)
    assert list(kept) == [2, 3]
    spill.bound(kept, 6, 1)
    assert list(kept) == [3], "what is shown stays"


def test_both_sides_of_a_comparison_are_bounded() -> None:
    traces = synthetic(1, tokens=96), synthetic(2, tokens=96)
    compared = Compared((None, None), traces, None, None, None, None)
    assert spill.bounded(compared, 2 * SIZE) is compared
    found = spill.bounded(compared, SIZE)
    assert spill.held([found]) < SIZE
    assert np.array_equal(maps(found.traces[1]), maps(traces[1]))


def test_the_folder_is_gone_with_the_process() -> None:
    script = """
        from app.live import spill
        from benchmarks.synthetic import synthetic
        kept = spill.to_disk(synthetic(1))
        print(spill._folder(), len(list(spill._folder().iterdir())))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    folder, count = out.stdout.split()
    assert count == "1"
    assert not Path(folder).exists()
    assert out.stderr == ""
