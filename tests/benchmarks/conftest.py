"""What several groups of benchmarks ask for."""

import pytest

from tests.benchmarks.started import questions


@pytest.fixture
def asked_table(tmp_path):
    """A table that the shipped task of questions can be tested with."""
    return questions(tmp_path, 120)
