"""The client of the app, answering from what it ran before: the one place of the tests that replaces its methods.

A page asks for a run, times and words on every press. Here each distinct request reaches the real model once in a test
session; the same request later gets the recorded values. What is recorded is real, and whoever asks for something new gets
a real run, so that no page is ever shown a made-up figure.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest

import saa_core as saa
from app import service
from app.live import answers, passes
from app.live.models import REGISTRY
from app.live.results import SHARED
from app.live.values import Result

__all__ = ["no_model", "no_warm_up", "recorded", "recorded_client"]
_known: dict[tuple[str, object], Any] = {}


def no_warm_up(patch: pytest.MonkeyPatch) -> None:
    """The warm-up has a test of its own; the others need not wait for it."""
    patch.setattr(service.Client, "cold", lambda self, name: [])


def no_model(patch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a model gets an error: for pages that must do without one."""

    def refuse(self: service.Client, name: str, report: object = None) -> None:
        raise saa.ModelError("no model in this test")

    no_warm_up(patch)
    patch.setattr(service.Client, "model", refuse)


def recorded(patch: pytest.MonkeyPatch) -> None:
    """Runs, times, comparisons, sweeps and guard trials are computed once per request.

    Times and what is written are shorter than a visitor's; what shows the whole of both is run with the real client.
    """
    no_warm_up(patch)
    patch.setattr(REGISTRY, "kept", 99)  # a session meets all models; none is loaded twice
    patch.setattr(answers, "REPEATS", 2)
    patch.setattr(service, "TRIAL_REPEATS", 2)
    patch.setattr(passes, "NEW_TOKENS", 2)
    SHARED.clear()
    client = service.Client
    for name in ("run", "compare"):
        patch.setattr(client, name, _once(name, getattr(client, name), lambda asked: asked))
    patch.setattr(client, "sweep", _once("sweep", client.sweep, lambda result: result.request))
    patch.setattr(client, "attempt", _once("attempt", client.attempt, lambda trial: trial))
    patch.setattr(client, "time", _timed(client.time))


@contextmanager
def recorded_client(run: bool = True) -> Iterator[None]:
    """As :func:`recorded`, for fixtures that live longer than a test.

    Args:
        run: False leaves the runs of the real model alone, and only the warm-up out.
    """
    with pytest.MonkeyPatch.context() as patch:
        (recorded if run else no_warm_up)(patch)
        yield


def _once(name: str, original: Callable[..., Any], key: Callable[[Any], object]) -> Any:
    def answer(self: service.Client, asked: Any, *given: Any, **named: Any) -> Any:
        place = (name, key(asked))
        if place not in _known:
            _known[place] = original(self, asked, *given, **named)
        return _known[place]

    return answer


def _changes(before: Result, after: Result) -> dict[str, Any]:
    names = [field.name for field in fields(after)]
    return {
        name: getattr(after, name)
        for name in names
        if getattr(after, name) is not getattr(before, name)
    }


def _timed(original: Callable[..., Iterator[Result]]) -> Any:
    """What follows the first figures, step by step the first time and whole afterwards."""

    def answer(self: service.Client, result: Result, *given: Any) -> Iterator[Result]:
        place = ("time", result.request)
        if place in _known:
            yield replace(result, **_known[place])
            return
        step = result
        for step in original(self, result, *given):
            yield step
        _known[place] = _changes(result, step)

    return answer
