"""What visitors share: results by request, bounded in memory and in number."""

import saa_core as saa
from app.live import spill
from app.live.results import SharedResults
from app.live.values import Request, Result
from benchmarks.synthetic import synthetic
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
