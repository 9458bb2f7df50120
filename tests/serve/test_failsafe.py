"""Whatever goes wrong on the sparse path: the answer is dense and right, it is counted, repeats open a breaker."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saa_core.run.classify import answers
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Breaking, Limits
from saa_core.serve.work import pytorch
from saa_core.serve.work.breaker import Breaker
from saa_core.serve.work.failsafe import Group, guarded
from saa_core.serve.work.parts import Work, in_parts
from tests.serve.conftest import settings
from tests.serve.serving import Running, running, wait_for

TEXT = "w5 w6 w7 w8 w9 w10 w11 w12"


def _with_nan(found):
    found.probabilities[:] = torch.nan
    return found


def faulty(monkeypatch, fault):
    """Has every sparse pass of the labels go wrong; dense ones are as they were."""
    real = pytorch.answers

    def broken(model, ids, policy=None, **given):
        return (
            real(model, ids, policy, **given)
            if policy is None
            else fault(real)(model, ids, policy, **given)
        )

    monkeypatch.setattr(pytorch, "answers", broken)


def raising(_real):
    def fault(*_given, **_more):
        raise RuntimeError("a kernel failed")

    return fault


def not_finite(real):
    return lambda *given, **more: _with_nan(real(*given, **more))


def dense_of(own: Running, text: str = TEXT) -> list[float]:
    model = own.service.catalog.get("toys").runs.model
    ids = own.service.catalog.get("toys").runs.encode([text], cut=False)
    return answers(model.reference_model, ids).probabilities[0].tolist()


def label(own: Running, text: str = TEXT, **saa):
    return own.ask("/v1/classify", {"model": "toys", "input": text, "saa": saa})


@pytest.mark.parametrize(("reason", "fault"), [("exception", raising), ("nan", not_finite)])
def test_failures_are_answered_densely_and_open_the_breaker(own, monkeypatch, reason, fault):
    healthy = label(own).json
    assert healthy["saa"]["side"] == "sparse"
    assert not healthy["data"][0]["saa"]["dense"]
    faulty(monkeypatch, fault)
    for at in range(5):
        answer = label(own)
        assert answer.status == 200
        found = answer.json
        np.testing.assert_allclose(found["data"][0]["probs"], dense_of(own), atol=1e-5)
        assert found["saa"]["side"] == "dense"
        assert found["data"][0]["saa"]["dense"]
        assert found["saa"]["fallback"] == (reason if at < 3 else "breaker")
    assert own.figure("saa_fallbacks_total", reason=reason) == 3
    assert own.figure("saa_fallbacks_total", reason="breaker") == 2
    assert own.figure("saa_dense_answers_total") == 5
    metrics = own.ask("/metrics").body.decode()
    assert 'saa_breaker_open{model="toys"} 1.0' in metrics
    assert own.ask("/v1/models").json["data"][0]["saa"]["breaker_open"]
    assert label(own, policy="dense").json["saa"].get("fallback") is None


def test_a_step_that_takes_too_long_is_stopped_and_answered_densely(toys, tmp_path, monkeypatch):
    """The cooperative case: the pass asks between layers."""
    limits = Limits(sparse_seconds=0.2, dense_seconds=60.0)
    real = pytorch.answers

    def slow(model, ids, policy=None, *, cancelled=None, **given):
        while policy is not None and not cancelled():
            time.sleep(0.01)
        return real(model, ids, policy, cancelled=cancelled, **given)

    monkeypatch.setattr(pytorch, "answers", slow)
    offered = settings(tmp_path, "toys", limits=limits)
    monkeypatch.setattr(pytorch.PytorchModel, "warm_up", lambda _self: None)
    with running(offered, {"toys": toys}) as own:
        found = label(own).json
        np.testing.assert_allclose(found["data"][0]["probs"], dense_of(own), atol=1e-5)
        assert found["saa"]["fallback"] == "timeout"
        assert own.figure("saa_threads_abandoned_total") == 0


def _threads():
    return {thread for thread in threading.enumerate() if thread.name == "saa-model"}


def test_a_thread_that_hangs_is_left_behind(toys, tmp_path, monkeypatch):
    """Nothing asks: the answer is dense, others go on, and the breaker opens."""
    forever, real = threading.Event(), pytorch.answers

    def hang(model, ids, policy=None, **given):
        if policy is not None:
            forever.wait(60)
        return real(model, ids, policy, **given)

    monkeypatch.setattr(pytorch.PytorchModel, "warm_up", lambda _self: None)
    before = _threads()  # of other tests' servers
    offered = settings(
        tmp_path, "toys", limits=Limits(sparse_seconds=0.1), breaker=Breaking(1, 60, 3600)
    )
    with running(offered, {"toys": toys}) as own:
        monkeypatch.setattr(pytorch, "answers", hang)
        try:
            for reason in ("timeout", "breaker"):
                found = label(own).json
                np.testing.assert_allclose(found["data"][0]["probs"], dense_of(own), atol=1e-5)
                assert found["saa"]["fallback"] == reason
            assert own.figure("saa_threads_abandoned_total") == 1
            assert own.service.ready
        finally:
            forever.set()
        wait_for(lambda: len(_threads() - before) == 1)
        assert label(own).status == 200


def test_gates_that_break_while_serving_never_answer(own):
    runs = own.service.catalog.get("toys").runs
    gate = pytorch.token_gates(pytorch.packing_of(runs.model))[1]
    kept = gate.up.weight.data.clone()
    gate.up.weight.data.fill_(torch.nan)
    try:
        for _ in range(2):
            found = label(own).json
            np.testing.assert_allclose(found["data"][0]["probs"], dense_of(own), atol=1e-5)
            assert found["saa"]["fallback"] == "damaged"
        assert 'saa_gates_damaged{model="toys"} 1.0' in own.ask("/metrics").body.decode()
    finally:
        gate.up.weight.data.copy_(kept)


def test_gates_of_another_fingerprint_are_not_used(toys, tmp_path):
    offered = settings(tmp_path, "toys")
    other = offered.models[0].__class__(name="toys", model="toys", gates_sha256="0" * 64)
    with running(settings(tmp_path, models=(other,)), {"toys": toys}) as own:
        found = label(own).json
        assert found["saa"]["fallback"] == "damaged"
        np.testing.assert_allclose(found["data"][0]["probs"], dense_of(own), atol=1e-5)


def test_memory_that_is_short_is_shed(own, monkeypatch):
    """Halves of a batch are tried; a single text that does not fit is refused with 503."""
    real = pytorch.answers

    def short(model, ids, policy=None, **given):
        if max(map(len, ids)) > 8:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )
        return real(model, ids, policy, **given)

    monkeypatch.setattr(pytorch, "answers", short)
    answer = label(own)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert label(own, "w5 w6").status == 200
    assert own.figure("saa_requests_rejected_total", reason="memory") == 1
    assert own.figure("saa_fallbacks_total") == 0


def test_a_breaker_tries_again_and_closes():
    now = [0.0]
    breaker = Breaker(Breaking(2, 10.0, 5.0), lambda: now[0])
    assert not breaker.failed()
    now[0] = 20.0
    assert not breaker.failed(), "the first failure is too old"
    assert breaker.failed()
    assert not breaker.allows()
    now[0] = 26.0
    assert breaker.allows()
    assert not breaker.allows(), "one caller tries at a time"
    breaker.failed()
    assert breaker.open
    assert not breaker.allows()
    now[0] = 32.0
    assert breaker.allows()
    breaker.let_go()
    assert breaker.allows()
    breaker.succeeded()
    assert not breaker.open
    assert breaker.allows()


def test_a_hang_that_nobody_waits_for_ends_the_trial_and_touches_nothing_later():
    now = [0.0]
    breaker = Breaker(Breaking(1, 10.0, 5.0), lambda: now[0])
    breaker.failed()
    now[0] = 6.0
    ticket = SimpleNamespace(model="toys", op="classify", left=False, side="dense", facts={})
    held = []

    def sparse(_works, _stop):
        group = held[0]
        ticket.left = group.abandoned = True
        assert group.instead(Metrics([], "cpu")) is None, "nobody waits for a dense answer"
        now[0] = 12.0
        assert breaker.allows(), "the trial was released, and the next one has begun"
        yield []

    work = Work(ticket, dense=lambda *_: iter(()), sparse=sparse, ids=[[1]], breaker=breaker)
    group = Group([work], lambda own: guarded(own, Metrics([], "cpu")))
    held.append(group)
    assert list(group.steps) == []
    assert breaker.open, "a thread left behind does not close it"
    assert not breaker.allows(), "nor does it end the trial of another"


def test_a_thread_left_behind_writes_into_nobody_elses_batch():
    work = Work(SimpleNamespace(left=False), dense=lambda *_: iter(()), ids=[[1], [1, 2]])
    slow = in_parts([work], 1, lambda ids: ["old"] * len(ids))
    assert next(slow) == []
    fresh = in_parts([work], 1, lambda ids: ["new"] * len(ids))
    assert next(fresh) == []
    next(slow)
    ((_, piece),) = next(fresh)
    assert piece.value == ["new", "new"]
