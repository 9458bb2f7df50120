"""One small model and its exported folder for all tests of this folder."""

from pathlib import Path

import pytest

import saa_core as saa
from tests.export.tiny import make_model


@pytest.fixture(scope="session")
def model() -> saa.Model:
    return make_model()


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory) -> Path:
    return saa.export(model, tmp_path_factory.mktemp("export") / "toys")


@pytest.fixture(scope="session")
def engine(exported):
    return saa.open_engine(exported, threads=1)
