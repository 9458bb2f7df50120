"""Many visitors at once: whose turn it is, who shares what, and how a run ends that nobody waits for."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.live import jobs as jobs_module
from app.live.jobs import AbandonedError, Job, Jobs
from app.live.turns import Turns

LONG = 30.0


def queue_up(turns: Turns, asked: list[tuple[str, bool]]) -> list[str]:
    """Lets visitors ask one after the other while a turn is held; the order in which they were served."""
    served: list[str] = []
    threads = []
    with turns.take("holder"):
        for at, (visitor, urgent) in enumerate(asked):

            def run(visitor: str = visitor, urgent: bool = urgent) -> None:
                with turns.take(visitor, urgent=urgent):
                    served.append(visitor)

            threads.append(threading.Thread(target=run))
            threads[-1].start()
            wait_for(lambda at=at: len(turns._waiting) > at)
    for thread in threads:
        thread.join(LONG)
    return served


def wait_for(condition: Any) -> None:
    until = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.005)


def test_visitors_take_turns_however_much_one_of_them_asks() -> None:
    asked = [("a", False), ("a", False), ("a", False), ("b", False), ("c", False)]
    assert queue_up(Turns(), asked) == ["a", "b", "c", "a", "a"]


def test_first_figures_come_before_anything_else() -> None:
    asked = [("a", False), ("b", False), ("c", True), ("a", True)]
    assert queue_up(Turns(), asked) == ["c", "a", "b", "a"]


def test_who_was_served_longest_ago_comes_first() -> None:
    turns = Turns()
    for visitor in ("b", "a"):
        with turns.take(visitor):
            pass
    assert queue_up(turns, [("a", False), ("b", False)]) == ["b", "a"]


def test_who_waits_hears_of_the_place_and_can_leave() -> None:
    turns, heard = Turns(), []

    class LeaveError(Exception):
        pass

    def leave(place: int) -> None:
        heard.append(place)
        raise LeaveError

    with turns.take("a"), pytest.raises(LeaveError), turns.take("b", waiting=leave):
        raise AssertionError("it is a's turn")
    assert heard == [1]
    with turns.take("c", waiting=leave):
        pass
    assert heard == [1], "nobody is left in the queue"


def test_an_error_inside_a_turn_gives_it_back() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.take("a"):
        1 / 0  # noqa: B018
    with turns.take("b"):
        assert not turns.urgent_waiting()


def quiet(step: str, share: float, **known: Any) -> None:
    pass


def test_identical_requests_join_one_run() -> None:
    jobs, go_on, started, got = Jobs(), threading.Event(), [], []

    def work(job: Job[str]) -> Iterator[str]:
        started.append(1)
        go_on.wait(LONG)
        yield "figures"
        yield "times"

    def ask() -> None:
        got.append([answer for _, answer in jobs.join("same", work).follow(quiet)][-1])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: "same" in jobs._running and jobs._running["same"]._waiters == 4)
    go_on.set()
    for thread in threads:
        thread.join(LONG)
    assert started == [1]
    assert got == ["times"] * 4
    wait_for(lambda: not jobs._running)


def test_what_a_run_raises_reaches_everybody_who_waits() -> None:
    def work(job: Job[str]) -> Iterator[str]:
        raise ValueError("this text")
        yield ""

    with pytest.raises(ValueError, match="this text"):
        list(Jobs().join("same", work).follow(quiet))


def test_a_run_that_nobody_waits_for_ends_at_its_next_report(monkeypatch) -> None:
    ended = threading.Event()

    def work(job: Job[str]) -> Iterator[str]:
        try:
            while True:
                job.report("dense", 0.5, left=9.0)
                threading.Event().wait(0.01)
        except AbandonedError:
            ended.set()
            raise
        yield ""

    class LeaveError(Exception):
        pass

    def leave(step: str, share: float, **known: Any) -> None:
        if known:
            assert known == {"left": 9.0}
            monkeypatch.setattr(jobs_module, "PATIENCE", 0.0)
            raise LeaveError

    with pytest.raises(LeaveError):
        list(Jobs().join("left", work).follow(leave))
    assert ended.wait(LONG)


def test_one_who_leaves_does_not_take_the_run_along(monkeypatch) -> None:
    jobs, go_on, got = Jobs(), threading.Event(), []

    def work(job: Job[str]) -> Iterator[str]:
        while not go_on.is_set():
            job.report("dense", 0.5)
            threading.Event().wait(0.01)
        yield "figures"

    class LeaveError(Exception):
        pass

    def leave(step: str, share: float, **known: Any) -> None:
        raise LeaveError

    def stay() -> None:
        got.extend(answer for _, answer in jobs.join("same", work).follow(quiet))

    thread = threading.Thread(target=stay)
    thread.start()
    wait_for(lambda: "same" in jobs._running and jobs._running["same"]._waiters == 1)
    with pytest.raises(LeaveError):
        list(jobs.join("same", work).follow(leave))
    monkeypatch.setattr(jobs_module, "PATIENCE", 0.0)
    jobs.stop("same")
    threading.Event().wait(0.1)
    go_on.set()
    thread.join(LONG)
    assert got == ["figures"]


def test_the_clock_waits_while_a_page_is_drawn() -> None:
    jobs, order = Jobs(), []

    def work(job: Job[str]) -> Iterator[str]:
        yield "figures"
        job.until_watched()
        order.append("clock")
        yield "times"

    for _, answer in jobs.join("same", work).follow(quiet):
        if answer == "figures":
            threading.Event().wait(0.3)
            order.append("drawn")
    assert order == ["drawn", "clock"]
