"""What the page opens on: recorded stories, the tour, and models that are loaded while people read."""

import json
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import text
from app.components.sidebar.choice import START
from app.components.tour.steps import STEPS, runs
from app.live import background
from app.live.background import Background, is_here
from app.live.models import ModelRegistry
from app.state.stories import stories, typical
from saa_core.store import Store
from tests.app.recorded import no_model

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(autouse=True)
def _read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A served app, in which nothing loads a model."""
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    monkeypatch.undo()
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    no_model(monkeypatch)
    monkeypatch.setattr(ModelRegistry, "loaded", ())  # as in a new process
    loading = threading.Event()  # never set: the model is still being loaded
    served = Background(lambda name, report: loading.wait(600))
    for module in ("app.live.background", "app.components.sidebar.choice"):
        monkeypatch.setattr(f"{module}.BACKGROUND", served)


def page(name: str = "", **address: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
    for key, value in address.items():
        at.query_params[key] = value
    at.run()
    return at.switch_page(f"views/{name}.py").run() if name else at


def shown(at: AppTest) -> str:
    kinds = (at.title, at.header, at.subheader, at.markdown, at.caption, at.error, at.warning)
    return "\n".join(element.value for kind in kinds for element in kind)


@pytest.mark.parametrize("lang", text.LANGUAGES)
def test_the_first_page_shows_the_stories_of_its_language_without_a_model(lang: str) -> None:
    at = page(lang=lang)
    assert not at.exception
    assert [element.value for element in at.error] == []
    assert at.selectbox(key="model").value == START[lang]
    for story in stories(lang):
        assert at.button(key=f"measure-{story.id}")
    first = stories(lang)[0]
    assert {metric.label for metric in at.metric}
    words = text.load(lang)
    share = 1 - first.result.flops_share if first.kind == "task" else first.result.trace.sparsity
    assert at.metric[0].value == words.percent(share)


def test_a_story_tells_what_its_runs_hold() -> None:
    by_id = {story.id: story for lang in text.LANGUAGES for story in stories(lang)}
    mail, caught = by_id["mail"], by_id["caught"]
    assert mail.result.trace.label == mail.result.dense.label
    assert mail.result.flops_share < 0.5
    assert caught.result.trace.label != caught.result.dense.label == caught.guarded.label
    (asked,) = caught.guarded.events
    assert asked["suspected"] == "margin"
    assert asked["measured"] < asked["limit"]
    for story in by_id.values():
        assert story.result.trace.text == story.text, "it can be measured here"


def test_how_typical_a_story_is_comes_from_the_results() -> None:
    rows = json.loads((RESULTS / "understanding.json").read_text("utf-8"))
    (row,) = [
        row
        for row in rows
        if (row["task"], row["data"], row["default"], row["seed"]) == ("spam", "spam", True, 0)
    ]
    found = typical()["spam"]
    assert (found.texts, found.changed, found.work) == (
        row["texts"],
        row["changed"],
        row["flops_share"],
    )
    (long,) = [
        row
        for row in json.loads((RESULTS / "prefill.json").read_text("utf-8"))
        if (row["length"], row["dtype"]) == (2048, "bfloat16")
    ]
    assert typical()["long"].faster == long["prefill_ratio"]
    facts = typical()["facts"]
    assert facts.guarded_changed < facts.changed


@pytest.mark.parametrize("name", ["tour", "traces", "dataset", "present"])
def test_pages_that_need_no_model_have_no_control_of_one(name: str) -> None:
    at = page(name, lang="en")
    assert not at.exception
    assert [element.value for element in at.error] == []
    assert not [box for box in at.selectbox if box.key == "model"]
    assert not [slider for slider in at.slider if slider.key in ("mass", "budget")]


def test_settings_outlive_a_page_that_has_no_place_for_them() -> None:
    at = page(lang="en")
    at.selectbox(key="model").set_value("minilm").run()
    at.switch_page("views/traces.py").run()
    at.switch_page("views/explore.py").run()
    assert at.selectbox(key="model").value == "minilm"


def test_the_language_changes_the_model_only_of_a_visitor_who_chose_none() -> None:
    at = page(lang="en")
    at.radio(key="lang").set_value("ja").run()
    assert at.selectbox(key="model").value == START["ja"]
    at.selectbox(key="model").set_value("minilm").run()
    at.radio(key="lang").set_value("en").run()
    assert at.selectbox(key="model").value == "minilm"


@pytest.mark.parametrize("lang", text.LANGUAGES)
def test_the_tour_ends_in_cause_and_effect(lang: str) -> None:
    at, words = page("tour", lang=lang), text.load(lang)
    assert len(STEPS) <= 7
    for step in STEPS[:-2]:
        assert at.header[0].value == words(f"tour.{step}_title")
        at.button(key="tour_later").click().run()
    at.button(key="tour_keep").click().run()
    assert at.header[0].value == words("tour.back_title")
    known = runs()
    assert known.dense.label == known.kept.label != known.saa.label
    assert f"**{known.kept.label}**" in shown(at)
    assert at.button(key="tour_later").disabled
    assert not at.exception


def test_the_tour_is_resumed_where_it_was_left_and_has_addresses() -> None:
    at = page("tour", lang="en")
    at.button(key="tour_later").click().run()
    at.button(key="tour_later").click().run()
    assert at.query_params["tour"] == "3"
    at.switch_page("views/explore.py").run()
    assert "step 3 of 7" in str([link.proto.label for link in at.get("page_link")])
    at.switch_page("views/tour.py").run()
    assert at.header[0].value == text.load("en")("tour.drop_title")


@pytest.mark.parametrize(("name", "rows"), [("traces", 4), ("dataset", 20)])
def test_an_empty_page_is_filled_with_an_example(name: str, rows: int) -> None:
    at = page(name, lang="en")
    at.button(key="fill").click().run()
    assert not at.exception
    assert [element.value for element in at.error] == []
    assert len(Store().ids()) >= rows
    assert at.dataframe


def test_a_model_is_prepared_once_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "is_here", lambda name: True)
    asked, go = [], threading.Event()

    def prepare(name: str, report: object) -> None:
        asked.append(name)
        assert go.wait(30)
        if name == "broken":
            raise saa.ModelError("no such model")

    served = Background(prepare)
    assert served.start("one")
    assert served.start("one")
    assert served.start("broken")
    assert served.busy("one")
    go.set()
    for thread in served._threads.values():
        thread.join(30)
    assert sorted(asked) == ["broken", "one"]
    assert not served.busy("one")
    assert not served.start("broken"), "whoever needs it is told why"
    assert not Background().start("one"), "nothing runs where nothing is served"


def test_only_pinned_models_can_be_here() -> None:
    assert not is_here("no/such-model")
    assert not is_here("smollm2 + nothing")
