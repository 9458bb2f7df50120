"""What visitors share: results by request, bounded in memory and in number."""

from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app.components.explore import plain_words
from app.components.shared.figures import figures
from app.live import answers, spill
from app.live.answers import ROUND_SECONDS, repeats_for, with_round
from app.live.results import SharedResults
from app.live.values import Request, Result
from app.text import load
from benchmarks.synthetic import synthetic
from saa_core.run.timing import TimedRun
from saa_core.trace.compare import Comparison
from saa_core.trace.maps import InMemory, OnDisk

POLICY = saa.Policy(mass=0.8)


def result(text: str, mass: float = 0.8, model: str = "m") -> Result:
    return Result(synthetic(1), Request(model, text, saa.Policy(mass=mass)))


def test_results_are_found_by_what_was_asked_for() -> None:
    shared, found = SharedResults(), result("a")
    shared.put(found)
    assert shared.get(Request("m", "a", POLICY)) is found
    assert shared.get(Request("m", "a", saa.Policy(mass=0.7))) is None
    assert shared.get(Request("n", "a", POLICY)) is None
    shared.clear()
    assert shared.get(Request("m", "a", POLICY)) is None


def test_a_text_is_found_whatever_its_policy_and_the_newest_first() -> None:
    shared = SharedResults()
    for mass in (0.5, 0.6):
        shared.put(result("a", mass))
    shared.put(result("b"))
    assert shared.of_text(Request("m", "a", POLICY)).request.policy.mass == 0.6
    assert shared.of_text(Request("n", "a", POLICY)) is None


def test_what_nobody_asked_for_longest_is_forgotten_first() -> None:
    shared = SharedResults(kept=2)
    for text in ("a", "b"):
        shared.put(result(text))
    shared.get(Request("m", "a", POLICY))
    shared.put(result("c"))
    assert shared.get(Request("m", "b", POLICY)) is None
    assert shared.get(Request("m", "a", POLICY)) is not None


def test_memory_is_bounded_and_what_is_beyond_it_lies_on_disk() -> None:
    size = synthetic(1).nbytes
    shared = SharedResults(most_bytes=2 * size)
    for at in range(6):
        shared.put(result(str(at)))
        assert spill.held(shared._results.values()) <= 2 * size
    first, last = (shared.get(Request("m", text, POLICY)) for text in ("0", "5"))
    assert isinstance(last.trace.layers, InMemory)
    if first is not None:
        assert isinstance(first.trace.layers, OnDisk)


def test_recorded_passes_are_shown_first_and_no_part_of_the_final_times(tiny) -> None:
    model = saa.attach(tiny())

    def took(ms: float) -> TimedRun:
        return TimedRun(ms / 1000, {}, "dense")

    known = with_round(replace(result("a"), rounds=2), (took(900), took(800)), model)
    assert (known.timing.samples_ms, known.rounds_left) == ((800.0,), 2)
    for round_ in ((10, 5), (12, 6)):
        known = with_round(known, (took(round_[0]), took(round_[1])), model)
    assert known.dense_timing.samples_ms == pytest.approx((10, 12))
    assert known.timing.samples_ms == pytest.approx((5, 6))
    assert known.complete
    assert known.trace.timing == (known.dense_timing, known.timing)


def test_a_round_that_takes_long_runs_once_and_any_other_twice_at_least(monkeypatch) -> None:
    monkeypatch.setattr(answers, "REPEATS", 5)
    assert repeats_for(0.01) == 5
    assert repeats_for(0.9 * ROUND_SECONDS) == 2
    assert repeats_for(ROUND_SECONDS) == repeats_for(60.0) == 1


def test_plain_words_count_among_the_positions_that_were_compared() -> None:
    same = np.array([True, False, True, True])
    compared = Comparison(np.zeros(4), same, np.zeros(4), 1.0)
    found = replace(result("a"), comparison=compared, compared_at=(0, 3, 7, 11))
    assert "at 1 of 4 positions" in plain_words._outcome(figures(found), found, load("en"))


def test_a_run_that_is_still_measured_is_not_kept() -> None:
    def page() -> None:
        from app import text
        from app.components.shared.keeping import keep_run
        from app.live.values import Request, Result
        from benchmarks.synthetic import synthetic
        from saa_core import Policy

        keep_run(Result(synthetic(1), Request("m", "a", Policy()), rounds=2), text.load("en"))

    at = AppTest.from_function(page).run()
    assert not at.exception
    assert not at.button
    assert [said.value for said in at.caption] == [load("en")("keep.later")]
