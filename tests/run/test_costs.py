"""Machines and money from measured times, against sums done by hand and laws that must hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import saa_core as saa
from saa_core.run.costs import Assumptions, MeasuredLength, pair_timings, saving

TIMES = st.lists(st.floats(1.0, 1e5), min_size=1, max_size=9)


def test_a_sum_done_by_hand():
    """864,000 requests a day are 10 per second, 30 at the peak; at 2 s and half busy 120 machines."""
    found = saving(MeasuredLength(4096, (2000.0,), (1000.0,)), Assumptions(864_000, 0.5, 3.0, 0.5))
    assert found.dense.machines == (120, 120, 120)
    assert found.saa.machines == (60, 60, 60)
    assert found.dense.cost[1] == pytest.approx(120 * 0.5 * 730)
    assert found.monthly == pytest.approx(60 * 0.5 * 730)
    assert found.ratio == (2, 2, 2)
    assert found.share == pytest.approx((0.5, 0.5, 0.5))
    assert found.verdict == "saves"


def test_only_the_measured_part_is_saved():
    """Half of a request is writing the reply: twice as fast reading saves a quarter."""
    found = saving(MeasuredLength(512, (100.0,), (50.0,)), Assumptions(1e6, 1.0, share=0.5))
    assert found.share[1] == pytest.approx(0.25)
    assert found.dense.request_s[1] == pytest.approx(0.2)
    assert found.saa.request_s[1] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("dense", "sparse", "requests", "verdict"),
    [
        ((100, 101, 99), (120, 122, 119), 1e7, "costs"),
        ((100, 101, 99), (90, 110, 99), 1e7, "nothing"),
        ((100, 101, 99), (50, 51, 50), 1e7, "saves"),
        ((100, 101, 99), (50, 51, 50), 100, "same_machines"),
    ],
)
def test_the_verdict_is_plain(dense, sparse, requests, verdict):
    found = saving(MeasuredLength(128, dense, sparse), Assumptions(requests, 1.0))
    assert found.verdict == verdict
    assert (found.monthly > 0) == (verdict == "saves")


@given(TIMES, st.floats(0.2, 5.0), st.floats(1, 1e8), st.floats(1.0, 10.0), st.floats(0.05, 1.0))
def test_machines_are_enough_and_never_one_too_many(times, speed, requests, peak, busy):
    found = saving(
        MeasuredLength(64, tuple(times), tuple(ms / speed for ms in times)),
        Assumptions(requests, 2.0, peak, busy),
    )
    for bill in (found.dense, found.saa):
        for load, machines in zip(bill.load, bill.machines, strict=True):
            assert machines >= load - 1e-6
            assert machines - 1 < load
        assert list(bill.cost) == sorted(bill.cost)
    assert found.ratio == pytest.approx((speed,) * 3)
    assert found.share[1] == pytest.approx(1 - 1 / speed)


def test_nothing_is_needed_for_no_request():
    found = saving(MeasuredLength(64, (5.0,), (4.0,)), Assumptions(0, 1.0))
    assert found.dense.machines == (0, 0, 0)
    assert found.monthly == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("requests", -1), ("price", float("nan")), ("peak", 0.5), ("busy", 0.0), ("share", 1.1)],
)
def test_assumptions_outside_their_range_are_refused(name, value):
    with pytest.raises(saa.PolicyError, match=name):
        Assumptions(**{"requests": 1.0, "price": 1.0, name: value})


def test_sides_with_other_numbers_of_rounds_are_refused():
    with pytest.raises(saa.PolicyError, match="2 and 1 rounds"):
        MeasuredLength(64, (1.0, 2.0), (1.0,))


def test_shipped_times_become_bills(smollm2):
    timings = [saa.Timing(**row) for row in smollm2.spec.evaluation["timings"]]
    found = {part.tokens: saving(part, Assumptions(1e6, 1.0)) for part in pair_timings(timings)}
    for dense, sparse in zip(timings[::2], timings[1::2], strict=True):
        bill = found[dense.length]
        assert bill.ratio == sparse.ratio(dense)
        assert bill.dense.request_s[1] == pytest.approx(dense.median_ms / 1000)
    assert found[128].verdict == "costs", "short texts cost more with SAA, and that is said"
    assert found[4096].verdict == "saves"
