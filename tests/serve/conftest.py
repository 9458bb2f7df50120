"""One server for all tests of this folder that do not need settings of their own: a small random task and the
small language model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import saa_core as saa
from saa_core.serve.settings import Breaking, Limits, ServedModel, Settings
from tests.export.tiny import make_model
from tests.serve.serving import Running, running

LIMITS = Limits(sparse_seconds=20.0, dense_seconds=40.0, request_seconds=60.0, idle_seconds=1.0)


def settings(folder: Path, *names: str, **changes: object) -> Settings:
    """Of models that the tests hand over."""
    models = tuple(ServedModel(name=name, model=name, untrained=True) for name in names)
    given = {"models": models, "limits": LIMITS, "breaker": Breaking(3, 60.0, 3600.0), **changes}
    return Settings(**given)


@pytest.fixture(scope="session")
def toys() -> saa.Model:
    """A small random task whose gates drop half of the tokens, and its reference."""
    return make_model(margin=0.0)


@pytest.fixture
def own(toys: saa.Model, tmp_path: Path) -> Iterator[Running]:
    """A server of its own for a test that breaks something."""
    with running(settings(tmp_path, "toys"), {"toys": toys}) as found:
        yield found


@pytest.fixture(scope="session")
def served(
    smollm2: saa.Model, minilm: saa.Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The real small models: a task, an encoder, a writer."""
    folder = tmp_path_factory.mktemp("served")
    spam = saa.load("minilm", task="spam", side="sparse", device="cpu")
    loaded = {"spam": spam, "minilm": minilm, "smollm2": smollm2}
    with running(settings(folder, *loaded), loaded) as found:
        yield found
