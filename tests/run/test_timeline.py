"""Where the time of one run went: nothing is left out, nothing counts twice, and Chrome's format says the same."""

import json
from dataclasses import replace

import pytest

import saa_core as saa
from saa_core.run.execute import execute
from saa_core.run.timeline import STAGES, timeline, timeline_bytes

IDS = list(range(3, 83))


@pytest.fixture
def sides(tiny):
    return timeline(saa.attach(tiny()), IDS, saa.Policy(mass=0.8))


def test_stretches_follow_each_other_without_gaps_and_fill_the_pass(sides):
    for side in sides:
        assert side.stretches[0].start_ms == 0.0
        assert side.stretches[-1].end_ms == side.total_ms
        for before, after in zip(side.stretches, side.stretches[1:], strict=False):
            assert before.end_ms == after.start_ms
        assert sum(side.by_stage().values()) == pytest.approx(side.total_ms)
        assert {each.stage for each in side.stretches} <= set(STAGES)


def test_every_layer_has_its_stages_in_the_order_they_ran(sides, tiny):
    dense, sparse = sides
    layers = len(saa.attach(tiny()).gates)
    assert [(s.layer, s.stage) for s in dense.stretches if s.stage != "rest"] == [
        (layer, "dense") for layer in range(layers)
    ]
    assert [(s.layer, s.stage) for s in sparse.stretches if s.stage != "rest"] == [
        (layer, stage) for layer in range(layers) for stage in ("gate", "rule", "kernel")
    ]
    assert dense.name == "dense"
    assert sparse.name == "saa"


def test_the_trace_for_perfetto_holds_what_was_measured(sides):
    about = {"policy": "mass 0.8"}
    found = json.loads(timeline_bytes(sides, about))
    assert found["otherData"] == about
    for process, side in enumerate(sides, start=1):
        own = [e for e in found["traceEvents"] if e["pid"] == process and e["ph"] == "X"]
        assert [e["name"] for e in own] == [s.stage for s in side.stretches]
        assert sum(e["dur"] for e in own) == pytest.approx(1000 * side.total_ms)
    names = [e["args"]["name"] for e in found["traceEvents"] if e["ph"] == "M"]
    assert names == [f"{side.name}, kernel {side.kernel}" for side in sides]
    assert "threads" in json.loads(timeline_bytes(sides))["otherData"]


def test_texts_that_stand_behind_each_other_are_on_the_clock_too(tiny):
    model = saa.attach(tiny("bert"))
    call = execute(model, [IDS[:20], IDS[:30]], None, clock=True).call
    assert [(span.layer, span.stage) for span in call.spans] == [
        (layer, "kernel") for layer in range(len(model.gates))
    ]
    assert call.seconds["kernel"] == pytest.approx(sum(s.end - s.start for s in call.spans))


def test_what_a_margin_asked_of_the_reference_model_is_no_rest(tiny, monkeypatch):
    def asked(*given, **named):
        return replace(execute(*given, **named), reference=execute(*given, **named))

    monkeypatch.setitem(timeline.__globals__, "execute", asked)
    model = saa.attach(tiny())
    dense, _ = timeline(model, IDS, saa.Policy(mass=0.8))
    found = [each.layer for each in dense.stretches if each.stage == "dense"]
    assert found == 2 * list(range(len(model.gates)))
