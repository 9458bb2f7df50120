"""Whoever leaves, in whichever state: work stops within one layer or token, and nobody else notices."""

import threading
import time

import numpy as np

from saa_core.serve.settings import Limits
from saa_core.serve.work import pytorch
from tests.export.tiny import make_model
from tests.serve.conftest import settings
from tests.serve.serving import Running, running, wait_for

TEXT = "w5 w6 w7 w8 w9 w10"
LONG = {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 400, "stream": True}


def label(own: Running, text: str = TEXT):
    return own.ask("/v1/classify", {"model": "toys", "input": text}).json["data"][0]["probs"]


def hold_layers(monkeypatch, model):
    """Has the model's second layer wait; counts the layers that begin."""
    begun, go_on = list[int](), threading.Event()
    for index, layer in enumerate(model.hf.encoder.layer):
        real = layer.attention.output.forward

        def forward(*given, _index=index, _real=real, **more):
            begun.append(_index)
            if _index == 1:
                assert go_on.wait(30)
            return _real(*given, **more)

        monkeypatch.setattr(layer.attention.output, "forward", forward)
    return begun, go_on


def test_a_request_whose_client_leaves_stops_at_the_next_layer(tmp_path, monkeypatch):
    model = make_model(margin=0.0)
    with running(settings(tmp_path, "toys"), {"toys": model}) as own:
        expected = label(own)
        begun, go_on = hold_layers(monkeypatch, model)
        connection = own.send("/v1/classify", {"model": "toys", "input": TEXT})
        wait_for(lambda: begun == [0, 1])
        waiting = own.send("/v1/classify", {"model": "toys", "input": TEXT + " w11"})
        wait_for(lambda: own.service.admission.requests == 2)
        waiting.close()  # while it waits for the thread
        wait_for(lambda: own.service.admission.requests == 1)
        connection.close()  # while it is computed
        wait_for(lambda: own.service.admission.requests == 0)
        go_on.set()
        np.testing.assert_allclose(label(own), expected, atol=1e-6)
        assert begun == [0, 1, 0, 1, 2, 3], "it went on, or what waited was computed"
        assert own.figure("saa_requests_cancelled_total") == 2
        assert own.figure("saa_fallbacks_total") == 0


def test_others_of_a_batch_get_what_they_would_have_got(tmp_path, monkeypatch):
    model = make_model(margin=0.0)
    texts = [f"w{at} w{at + 1} w{at + 2} w{at + 3}" for at in range(4, 24, 2)]
    with running(settings(tmp_path, "toys"), {"toys": model}) as own:
        expected = [label(own, text) for text in texts]
        _, go_on = hold_layers(monkeypatch, model)
        holding = own.send("/v1/classify", {"model": "toys", "input": TEXT})
        wait_for(lambda: own.service.admission.requests == 1)
        found, sizes = dict[int, list[float]](), list[int]()
        real = pytorch.answers

        def counting(model, ids, *given, **more):
            sizes.append(len(ids))
            return real(model, ids, *given, **more)

        monkeypatch.setattr(pytorch, "answers", counting)
        connections = [
            own.send("/v1/classify", {"model": "toys", "input": text}) for text in texts[:3]
        ]
        threads = [
            threading.Thread(target=lambda i=i: found.__setitem__(i, label(own, texts[i])))
            for i in range(3, len(texts))
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: own.service.admission.requests == 1 + len(texts))
        for connection in connections:
            connection.close()
        wait_for(lambda: own.service.admission.requests == 1 + len(texts) - 3)
        go_on.set()
        for thread in threads:
            thread.join(30)
        assert holding.recv(65_536).startswith(b"HTTP/1.1 200")
        assert max(sizes) == len(texts) - 3, "they were not computed together"
        for at, probabilities in found.items():
            np.testing.assert_allclose(probabilities, expected[at], atol=1e-5)


def test_a_stream_stops_within_a_token(served, monkeypatch):
    steps, model = list[float](), served.service.catalog.get("smollm2").runs.model
    real = model.hf.forward

    def counting(*given, **more):
        steps.append(time.monotonic())
        return real(*given, **more)

    monkeypatch.setattr(model.hf, "forward", counting)
    before = served.figure("saa_requests_cancelled_total")
    connection = served.send("/v1/completions", LONG)
    first = connection.recv(65_536)
    assert first.startswith(b"HTTP/1.1 200")
    wait_for(lambda: len(steps) >= 3)
    connection.close()
    served.settle()
    left = len(steps)
    time.sleep(0.3)
    assert len(steps) <= left + 1
    assert len(steps) < 300
    assert served.figure("saa_requests_cancelled_total") == before + 1


def test_more_streams_than_places_take_turns_and_one_that_waits_can_leave(smollm2, tmp_path):
    offered = settings(tmp_path, "smollm2", limits=Limits(streams=1))
    with running(offered, {"smollm2": smollm2}) as own:
        first = own.send("/v1/completions", LONG)
        assert first.recv(65_536).startswith(b"HTTP/1.1 200")
        second = own.send("/v1/completions", LONG)
        wait_for(lambda: own.service.admission.requests == 2)
        wait_for(lambda: own.figure("saa_num_requests_waiting") == 1)
        second.close()
        wait_for(lambda: own.service.admission.requests == 1)
        first.close()
        own.settle()
        assert own.figure("saa_generation_tokens_total") < 800


def test_a_long_prompt_stops_between_layers(served, novel, monkeypatch):
    model = served.service.catalog.get("smollm2").runs.model
    layers, go_on = list[int](), threading.Event()
    attentions = [layer.self_attn for layer in model.hf.base_model.layers]
    for index, attention in enumerate(attentions):
        forward = attention.forward

        def counted(*given, _index=index, _forward=forward, **more):
            layers.append(_index)
            if _index == 2:
                assert go_on.wait(30)
            return _forward(*given, **more)

        monkeypatch.setattr(attention, "forward", counted)
    body = {"model": "smollm2", "prompt": novel[:400], "max_tokens": 4}
    connection = served.send("/v1/completions", body)
    wait_for(lambda: len(layers) == 3)
    connection.close()
    served.settle()
    go_on.set()
    time.sleep(0.2)
    assert layers == [0, 1, 2]
