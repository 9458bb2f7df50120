"""Presentations: read with clear refusals, figures from recordings only, one HTML file that reacts offline."""

import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import saa_core as saa
from benchmarks.page import decks
from benchmarks.synthetic import synthetic
from saa_core.cli.main import main
from saa_core.deck import deck_of_runs, find_deck, list_decks, read_deck
from saa_core.deck.figures import FIGURES, MeasuredFigure, format_figure, trace_figure
from saa_core.deck.page import deck_html, write_deck
from saa_core.report.sentences import LANGUAGES, sentences
from tests.report.test_report import HOSTILE, opened

HEAD = '[deck]\ntitle = { en = "Talk", ja = "発表" }\n'
STEP = '[[step]]\ntitle = "One"\n'
SPEED = MeasuredFigure(2.5, "times", "2026-11-20", "cpu", "AVX512", 2, "a command", 2.25, 3.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two recordings of one name, and measured figures."""
    for seed, name in ((1, "20260101T000000Z-a"), (2, "20260301T000000Z-a")):
        synthetic(seed, tokens=20, label="positive").save(tmp_path / f"{name}.saa")
    (tmp_path / "measured.json").write_text(json.dumps({"speed": asdict(SPEED)}), "utf-8")
    return tmp_path


def written(folder: Path, steps: str, head: str = HEAD) -> Path:
    file = folder / "deck.toml"
    file.write_text(head + steps, "utf-8")
    return file


def test_a_step_has_words_figures_and_a_map_of_the_newest_recording(folder: Path) -> None:
    steps = """
[[step]]
title = { en = "One", ja = "一" }
text = \"\"\"
First line,
same paragraph.

Second.\"\"\"
notes = { en = "Say this.", ja = "こう話す。" }
trace = "a"
look = { layer = 3, head = 2, query = 7, key = 4 }
[[step.figure]]
label = "Dropped"
of = "pairs_dropped"
[[step.figure]]
label = "Speed"
measured = "speed"
"""
    for language, title, notes in (("en", "One", "Say this."), ("ja", "一", "こう話す。")):
        (step,) = read_deck(written(folder, steps), language=language).steps
        assert (step.title, step.notes) == (title, (notes,))
        assert step.text == ("First line, same paragraph.", "Second.")
        view = step.view
        assert (view.layer, view.head, view.query, view.key) == (3, 2, 7, 4)
        assert view.recording.id == "20260301T000000Z-a"
        dropped, speed = step.figures
        trace = synthetic(2, tokens=20, label="positive")
        assert dropped.value == f"{100 * trace.sparsity:.1f} %"
        assert "2026-03-01" in dropped.recorded
        assert speed.value == ("2.50 ×" if language == "en" else "2.50 倍")
        assert "2.25" in speed.spread
        assert "2026-11-20" in speed.recorded
        assert speed.source == "a command"


def test_a_step_may_show_another_recording_in_another_language(folder: Path) -> None:
    steps = """
[[step]]
title = "One"
trace = { en = "a", ja = "b" }
look = { en = { layer = 3 }, ja = { layer = 1 } }
[[step.figure]]
label = "Tokens"
of = "tokens"
"""
    synthetic(5, tokens=12).save(folder / "20260301T000000Z-b.saa")
    seen = {
        lang: read_deck(written(folder, steps), language=lang).steps[0] for lang in ("en", "ja")
    }
    assert {lang: step.view.recording.trace.keys for lang, step in seen.items()} == {
        "en": 20,
        "ja": 12,
    }
    assert {lang: step.view.layer for lang, step in seen.items()} == {"en": 3, "ja": 1}
    assert [seen[lang].figures[0].value for lang in ("en", "ja")] == ["20", "12"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("", "at least one"),
        (STEP + "colour = 1", "step 1: key='colour' is not known; choose one of: figure, look"),
        ('[[step]]\ntext = "x"', "step 1: title=None must be a text"),
        ('[[step]]\ntitle = { ja = "x" }', "title has no text in 'en', only: ja"),
        (STEP + STEP + "title2 = 3", "step 2"),
        (STEP + 'trace = "../a"', "trace='../a' must be the name"),
        (STEP + 'trace = "b"', "trace='b' is neither a .saa file"),
        (STEP + 'trace = "a"\nlook = { layer = 6 }', "layer=6 does not exist; choose 0 to 5"),
        (STEP + 'trace = "a"\nlook = { key = true }', "key=True"),
        (STEP + 'trace = "a"\nlook = { row = 6 }', "key='row' is not known"),
        (STEP + "look = { layer = 1 }", "set trace too"),
        (STEP + '[[step.figure]]\nlabel = "x"', "needs exactly one of: measured, of"),
        (STEP + '[[step.figure]]\nlabel = "x"\nof = "tokens"', "name it with trace"),
        (STEP + 'trace = "a"\n[[step.figure]]\nlabel = "x"\nof = "luck"', "of='luck'"),
        (STEP + 'trace = "a"\n[[step.figure]]\nlabel = "x"\nof = "speed"', "does not hold it"),
        (STEP + '[[step.figure]]\nlabel = "x"\nmeasured = "no"', "measured='no'"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_file_and_step(
    folder: Path, steps: str, message: str
) -> None:
    file = written(folder, steps)
    with pytest.raises(saa.DeckError) as refused:
        read_deck(file)
    assert str(file) in str(refused.value)
    assert message in str(refused.value)


def test_files_languages_and_names_that_do_not_exist_are_refused(folder: Path) -> None:
    with pytest.raises(saa.DeckError, match="cannot be read"):
        read_deck(folder / "none.toml")
    with pytest.raises(saa.DeckError, match="cannot be read"):
        read_deck(written(folder, "[[", HEAD))
    with pytest.raises(saa.DeckError, match="choose one of: en, ja"):
        read_deck(written(folder, STEP), language="fr")
    with pytest.raises(saa.DeckError, match=r"engineers, stakeholders, or give a \.toml"):
        find_deck("keynote")
    for entry in ({"value": "x"}, {"value": float("nan")}, {"unit": "miles"}, {"spread": "?"}):
        with pytest.raises(saa.DeckError):
            replace(SPEED, **entry)
    (folder / "20260301T000000Z-a.saa").write_bytes(b"nothing")
    with pytest.raises(saa.DeckError, match=r"step 1: .*cannot be read"):
        read_deck(written(folder, STEP + 'trace = "a"'))


def test_figures_of_a_trace_are_its_own() -> None:
    trace = replace(
        synthetic(4, label="positive"), kept_tokens=np.tril(np.ones((6, 12), bool)), timing=()
    )
    when = datetime(2026, 5, 4, tzinfo=UTC)
    values = {of: trace_figure(trace, of, when).value for of in FIGURES if of != "speed"}
    assert values["tokens"] == 12
    assert values["pairs_dropped"] == pytest.approx(100 * trace.sparsity)
    assert values["tokens_computed"] == pytest.approx(100 * 21 / 72)
    assert values["label"] == "positive (80\N{NO-BREAK SPACE}%)"
    dense = saa.Timing(
        "dense", 12, (4.0, 6.0), (), {}, "cpu", "float32", 1, "dense", 0, None, {}, 1.0
    )
    timed = replace(trace, timing=(dense, replace(dense, name="saa", samples_ms=(2.0, 2.0))))
    assert trace_figure(timed, "speed", when).value == 2.5


def test_runs_of_the_store_become_steps(tmp_path: Path) -> None:
    store = saa.Store(tmp_path / "store")
    first = store.add(synthetic(1, text="The first text."), note="Say why.\n\nThen wait.")
    second = store.add(synthetic(2, label="negative", text="x" * 90))
    deck = deck_of_runs([second, first], "Mine", store)
    assert [step.title for step in deck.steps] == ["x" * 59 + "…", "The first text."]
    assert deck.steps[1].notes == ("Say why.", "Then wait.")
    assert deck.steps[0].figures[0].value.startswith("negative")
    with pytest.raises(saa.DeckError, match="at least one id"):
        deck_of_runs([], "Mine", store)
    file = tmp_path / "deck.toml"
    file.write_text(HEAD + STEP + f'trace = "{first}"', "utf-8")
    assert read_deck(file, store=store).steps[0].view.recording.id == first


@pytest.mark.browser
def test_the_file_steps_and_reacts_offline_and_hostile_words_stay_words(folder: Path) -> None:
    summary = replace(synthetic(3, text=HOSTILE), layers=None)
    summary.save(folder / "summary.saa")
    bad = json.dumps(HOSTILE)
    steps = f"""
[[step]]
title = {bad}
text = {bad}
notes = {bad}
[[step.figure]]
label = {bad}
measured = "speed"
[[step]]
title = "Map"
trace = "a"
look = {{ layer = 3, head = 2, query = 7, key = 4 }}
[[step]]
title = "The same map elsewhere"
trace = "a"
look = {{ layer = 1, head = 0, query = 9, key = 2 }}
[[step]]
title = "Figures only"
trace = "summary"
"""
    head = f"[deck]\ntitle = {bad}\n"
    file = write_deck(read_deck(written(folder, steps, head)), folder / "deck.html")
    assert file.read_text("utf-8").count('"forcedHeads"') == 1, "one trace stands in it once"
    with opened(file, color_scheme="dark") as page:
        current = page.locator(".step.current")
        keys = page.keyboard

        def at(number: int) -> None:
            page.wait_for_selector(f'body[data-step="{number}"]')
            assert current.count() == 1
            assert current.get_attribute("id") == f"step-{number}"

        at(1)
        assert page.title() == HOSTILE
        assert page.locator("img").count() == 0
        assert current.locator(".said > p").inner_text() == HOSTILE
        assert "2.50 ×" in current.inner_text()
        assert "2026-11-20" in current.inner_text()
        assert not current.locator("aside").is_visible()
        keys.press("n")
        assert current.locator("aside p").inner_text() == HOSTILE
        keys.press("n")
        assert not current.locator("aside").is_visible()
        keys.press("ArrowRight")
        at(2)
        assert "position 7" in current.locator(".pair").inner_text()
        current.locator(".map").press("ArrowUp")
        current.locator('[data-ready="3,2,6,4"]').wait_for()
        at(2)
        current.locator(".grid button").nth(4 * 4 + 1).click()
        current.locator('[data-ready="4,1,6,4"]').wait_for()
        assert "Layer 4, head 1" in current.locator(".which").inner_text()
        keys.press("PageDown")
        at(3)
        assert "position 9" in current.locator(".pair").inner_text()
        keys.press("End")
        at(4)
        assert "summary" in current.inner_text()
        keys.press("ArrowRight")
        at(4)
        for pressed, number in (("Shift+Space", 3), ("PageUp", 2), ("Home", 1), ("Space", 2)):
            page.locator("header").click()
            keys.press(pressed)
            at(number)
        assert page.url.endswith("#2")
        pages = re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))
        assert len(pages) == 4, "one step per page"
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#full").click()
        page.wait_for_function("document.fullscreenElement !== null")


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("name", ["engineers", "stakeholders"])
def test_shipped_presentations_show_recordings_and_speak_both_languages(
    name: str, language: str
) -> None:
    assert name in list_decks()
    deck = read_deck(find_deck(name), language=language)
    assert len(deck.steps) >= 5
    assert all(step.notes and step.text for step in deck.steps)
    assert any(step.view for step in deck.steps)
    assert any(step.figures for step in deck.steps)
    for step in deck.steps:
        if step.view is not None:
            assert step.view.recording.trace.model.trained
            assert step.view.recording.recorded.year >= 2026
    assert len(deck_html(deck)) < 3_000_000


def shipped_trace(name: str) -> saa.Trace:
    (file,) = decks.DECKS.glob(f"*Z-{name}.saa")
    return saa.Trace.load(file)


def test_what_the_words_of_the_shipped_presentations_say_is_in_their_recordings() -> None:
    for right, wrong in (
        (("bakery", "bakery_dense", "jokes_dense"), ("jokes",)),
        (("jokes_dense", "jokes_60", "jokes_guarded"), ("jokes", "jokes_70")),
        (("mail_dense", "mail_forced", "mail_more"), ("mail",)),
        (("museum_dense", "museum_guarded"), ("museum",)),
    ):
        labels = [{shipped_trace(name).label for name in names} for names in (right, wrong)]
        assert [len(found) for found in labels] == [1, 1]
        assert labels[0] != labels[1]
    mail, forced = (shipped_trace(name) for name in ("mail", "mail_forced"))
    assert mail.tokens[5] == "library"
    reasons = [np.array(saa.REASONS)[run.reason_map(4, 4)[:, 5]] for run in (mail, forced)]
    far = reasons[0] != "local"
    assert np.mean(reasons[0][far] == "below") > 0.9
    assert set(reasons[1][far]) == {"forced"}
    assert mail.sparsity - forced.sparsity < 0.02
    jokes = shipped_trace("jokes")
    assert jokes.tokens[12] == "works"
    assert jokes.kept_tokens[:, 12].tolist() == [True] * 4 + [False] * 2
    novel = shipped_trace("novel")
    assert novel.retained_mass.mean() > 0.9


def test_shipped_recordings_are_small() -> None:
    size = sum(file.stat().st_size for file in decks.DECKS.rglob("*") if file.is_file())
    assert size < 2_000_000  # a step may show another run in each language


def test_measured_figures_are_those_of_the_benchmarks() -> None:
    now = {name: asdict(replace(found, recorded="")) for name, found in decks.measured().items()}
    kept = json.loads((decks.DECKS / "measured.json").read_text("utf-8"))
    kept = {name: found | {"recorded": ""} for name, found in kept.items()}
    assert kept == now, "write it again: python -m benchmarks.page.decks --measured"


def test_languages_have_the_same_words() -> None:
    words = {lang: sentences("saa_core.deck", lang) for lang in LANGUAGES}
    assert words["en"].keys() == words["ja"].keys()
    for table in ("units", "spreads", "of"):
        assert words["en"][table].keys() == words["ja"][table].keys()
    assert words["en"]["of"].keys() == FIGURES.keys()
    assert format_figure("x", SPEED, "ja").value == "2.50 倍"


def test_the_command_writes_a_file_and_refuses_in_a_sentence(tmp_path: Path, capsys) -> None:
    out = tmp_path / "talk.html"
    store = ["--store", str(tmp_path / "store")]
    assert main(["present", "stakeholders", "-o", str(out), "--language", "ja", *store]) == 0
    assert 'lang="ja"' in out.read_text("utf-8")
    assert "steps" in capsys.readouterr().out
    assert main(["present", "nothing", "-o", str(out), *store]) == 1
    assert "choose one of: engineers, stakeholders" in capsys.readouterr().err
