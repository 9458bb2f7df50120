"""The Present page without a browser: steps, notes, recorded marks, and its way into the other pages."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import text
from app.state import records
from benchmarks.synthetic import synthetic
from saa_core.deck import find_deck, read_deck
from saa_core.store import Store
from tests.app.recorded import no_model
from tests.app.test_app import HOSTILE, app, page_text, player


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    return Store()


@pytest.fixture(autouse=True)
def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this page may need a model."""
    no_model(monkeypatch)


def present(**address: str) -> AppTest:
    at = app(**address)
    at.switch_page("views/present.py")
    return at.run()


def test_a_link_opens_a_step_with_figures_that_say_when_they_were_recorded(store: Store) -> None:
    deck = read_deck(find_deck("stakeholders"), language="ja")
    number = next(at for at, step in enumerate(deck.steps) if step.figures)
    at = present(deck="stakeholders", step=str(number + 1), lang="ja")
    assert not at.exception
    step = deck.steps[number]
    assert [metric.value for metric in at.metric][: len(step.figures)] == [
        text.plain(figure.value) for figure in step.figures
    ]
    shown = page_text(at).replace("\\", "")
    assert step.figures[0].recorded in shown
    assert step.notes[0] in shown
    assert at.query_params["step"] == str(number + 1)


def test_buttons_step_and_a_map_opens_elsewhere_from_the_store(store: Store) -> None:
    deck = read_deck(find_deck("engineers"))
    at = present(deck="engineers")
    assert at.button(key="deck_back").disabled
    number = next(at for at, step in enumerate(deck.steps) if step.view)
    for _ in range(number):
        at.button(key="deck_next").click().run()
    assert not at.exception
    view = deck.steps[number].view
    assert [at.session_state[name] for name in ("layer", "head", "q", "k")] == [
        view.layer,
        view.head,
        view.query,
        view.key,
    ]
    assert at.query_params["step"] == str(number + 1)
    at.button(key="open_gate_map").click().run()
    assert not at.exception
    assert store.ids() == [view.recording.id]
    assert at.query_params["trace"] == view.recording.id
    assert at.session_state["q"] == view.query


def test_tokens_are_crossed_out_at_the_layer_of_the_step(store: Store) -> None:
    deck = read_deck(find_deck("engineers"))
    number, view = next(
        (at, step.view)
        for at, step in enumerate(deck.steps, 1)
        if step.view and step.view.recording.trace.kept_tokens is not None
    )
    at = present(deck="engineers", step=str(number))
    assert not at.exception
    assert player(at)["start"] == view.layer


def test_kept_runs_become_a_presentation_and_texts_stay_texts(store: Store) -> None:
    run = store.add(synthetic(1, text=HOSTILE, label="positive"), note=HOSTILE)
    at = present(deck="runs")
    assert not at.exception
    assert text.load("en")("present.no_runs") in page_text(at)
    at.multiselect(key="present_runs").set_value([run]).run()
    assert not at.exception
    assert at.header[0].value == text.plain(HOSTILE[:59] + "…")
    assert text.plain(HOSTILE) in [line.value for line in at.markdown]
    assert at.button(key="deck_next").disabled


@pytest.mark.parametrize("step", ["0", "99", "-1", "x", "９"])
def test_a_step_that_does_not_exist_is_the_nearest_one(store: Store, step: str) -> None:
    at = present(deck="engineers", step=step)
    assert not at.exception
    assert 0 <= at.session_state["deck_step"] < 20


def test_a_broken_run_is_a_sentence(store: Store) -> None:
    run = store.add(synthetic(1))
    store.path(run).write_bytes(b"nothing")
    at = present(deck="runs")
    at.multiselect(key="present_runs").set_value([run]).run()
    assert not at.exception
    assert at.error
    assert records.store().ids() == [run]
