"""Every page test in this process: one real run per request, see `recorded`; the browser has a server of its own."""

import pytest

from tests.app.recorded import recorded


@pytest.fixture(autouse=True)
def recorded_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch)
