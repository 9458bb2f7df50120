"""The Latency page draws the time of one run of the visitor's text, and hands it out as a file."""

import pytest

from app import text
from tests.app.test_app import TEXT, app, page_text, press


@pytest.mark.model
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_one_run_is_drawn_and_told(lang: str) -> None:
    words = text.load(lang)
    at = press(app(model="minilm", lang=lang).run(), TEXT).switch_page("views/latency.py").run()
    at.button(key="measure-timeline").click().run()
    assert not at.exception
    assert not at.error
    request, (dense, sparse) = at.session_state["timeline"]
    assert request.text == TEXT
    assert set(sparse.by_stage()) >= {"gate", "rule", "kernel", "rest"}
    shown = page_text(at)
    assert words.milliseconds(dense.total_ms) in shown
    assert words.milliseconds(sparse.total_ms) in shown
    assert words("timeline.perfetto") in [
        button.proto.label for button in at.get("download_button")
    ]
