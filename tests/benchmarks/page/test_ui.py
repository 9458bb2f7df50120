"""The page in Chromium, one round."""

import json

import pytest

from tests.benchmarks.started import start


@pytest.mark.long  # the other browser tests serve the app by the same code
@pytest.mark.timeout(600)
def test_ui(tmp_path, monkeypatch, chromium):
    out = tmp_path / "ui.json"
    sizes = ["--rounds", "1", "--sessions", "1", "--out", str(out)]
    start("page.ui", monkeypatch, "--what", "pages", "sessions", *sizes)
    found = json.loads(out.read_text())
    assert len(found["page_switch"]) == 9
    for row in found["page_switch"]:
        assert 0 < row["median_ms"]["title"] <= row["median_ms"]["rest"]
    assert len(found["sessions"]["samples_mib"]) == 2
