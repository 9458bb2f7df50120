"""The Traces page and recorded runs without a browser: found, opened without a model, noted, deleted."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import text
from app.state import records
from benchmarks.synthetic import synthetic
from saa_core.store import Store
from tests.app.recorded import no_model
from tests.app.test_app import HOSTILE, TEXT, app, figure, page_text, press, spoken


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    return Store()


@pytest.fixture(autouse=True)
def without_model(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """None of these pages may need a model, unless the test says so."""
    if not request.node.get_closest_marker("model"):
        no_model(monkeypatch)


def traces(**address: str) -> AppTest:
    at = app(**address)
    at.switch_page("views/traces.py")
    return at.run()


def rows(at: AppTest) -> list[dict]:
    return at.dataframe[0].value.to_dict("records")


def refused(at: AppTest) -> bool:
    """The store's sentence stands on the page."""
    return text.load("en")("error.store") in [error.value for error in at.error]


def test_a_link_to_a_stored_run_opens_without_a_model_and_says_that_it_is_recorded(store) -> None:
    trace = synthetic(1, tokens=30, label="negative", text="The label flips here.")
    store.add(synthetic(0, tokens=30, policy=None, label="positive", text="The label flips here."))
    run = store.add(trace, note="why?")
    at = app(trace=run, layer="3", head="2").run()
    assert not at.exception
    assert not at.error, "no model was asked for"
    assert "Every figure on this page was recorded then" in page_text(at)
    assert "why?" in page_text(at)
    words = text.load("en")
    assert figure(at, "Pairs dropped") == words.percent(trace.sparsity, 1)
    assert "the full model says positive, SAA says negative" in spoken(page_text(at))
    assert at.query_params["trace"] == run
    assert at.session_state["layer"] == 3
    at.switch_page("views/gate_map.py").run()
    assert not at.exception
    assert run in page_text(at).replace("\\", "")
    at.button(key="live").click().run()
    assert "stored" not in at.session_state
    assert "trace" not in at.query_params


@pytest.mark.parametrize("run", ["../../etc/passwd", "20260101T000000Z-00000000", "a/b", "%00"])
def test_a_link_to_no_run_is_a_sentence_or_ignored(store, run: str) -> None:
    at = app(trace=run).run()
    assert not at.exception
    if run.startswith("2026"):
        assert [error.value for error in at.error] == [text.load("en")("error.store")]
    else:
        assert "stored" not in at.session_state


def test_an_empty_store_says_what_to_do(store) -> None:
    at = traces()
    assert not at.exception
    assert "Keep this run" in page_text(at)


def test_filters_find_runs_by_words_model_and_tag(store) -> None:
    first = store.add(synthetic(1, text="A text on windmills."), note=HOSTILE, tags=["demo"])
    second = store.add(synthetic(2, text="A text on ferries."), tags=["demo", "odd"])
    at = traces()
    assert not at.exception
    assert {row["id"] for row in rows(at)} == {first, second}
    assert rows(at)[0]["link"].startswith("/run/")
    at.text_input(key="search").set_value("WINDmill").run()
    assert [row["id"] for row in rows(at)] == [first]
    at.text_input(key="search").set_value("it's").run()
    assert rows(at) == []
    assert not refused(at)
    at.text_input(key="search").set_value("").run()
    at.multiselect(key="tags").set_value(["odd"]).run()
    assert [row["id"] for row in rows(at)] == [second]
    at.multiselect(key="tags").set_value([]).run()
    at.checkbox(key="only_changed").check().run()
    assert rows(at) == []


def test_saved_queries_find_changed_labels_and_visitors_save_their_own(store) -> None:
    same = "One text."
    store.add(synthetic(0, policy=None, label="positive", text=same))
    hit = store.add(synthetic(1, label="negative", text=same, density=-1.0, tokens=40))
    at = traces()
    at.segmented_control(key="way").set_value("sql").run()
    assert [row["id"] for row in rows(at)] == [hit]
    for name in ("next_changed", "sparse_heads", "guard"):
        at.selectbox(key="saved").set_value(name).run()
        assert not refused(at), name
    at.text_area(key="sql").set_value("SELECT id, tokens FROM runs WHERE tokens = 40").run()
    at.text_input(key="query_name").set_value("forty").run()
    at.button(key="save_query").click().run()
    assert store.queries() == {"forty": "SELECT id, tokens FROM runs WHERE tokens = 40"}
    again = traces()
    again.segmented_control(key="way").set_value("sql").run()
    again.selectbox(key="saved").set_value("* forty").run()
    assert [row["tokens"] for row in rows(again)] == [40]
    again.text_area(key="sql").set_value("DROP TABLE runs").run()
    assert refused(again)
    assert not again.exception


def test_notes_are_written_and_traces_deleted_after_a_question(store) -> None:
    run, other = (store.add(synthetic(seed)) for seed in range(2))
    at = traces()
    at.multiselect(key="chosen").set_value([run]).run()
    next(area for area in at.text_area if area.label == "Note").set_value("Look at this.")
    next(box for box in at.text_input if box.label.startswith("Tags, sep")).set_value("a, b")
    next(b for b in at.button if b.label == "Save note and tags").click().run()
    assert store.notes()[run].tags == ("a", "b")
    at.button(key="delete").click().run()
    assert set(store.ids()) == {run, other}, "not before the question is answered"
    at.button(key="keep_them").click().run()
    assert set(store.ids()) == {run, other}
    at.button(key="delete").click().run()
    at.button(key="delete_now").click().run()
    assert store.ids() == [other]
    assert not at.exception


def test_a_file_is_imported_once_and_a_hostile_one_refused(store, tmp_path: Path) -> None:
    source = Store(tmp_path / "other")
    runs = [source.add(synthetic(seed), tags=["from afar"]) for seed in range(2)]
    content = source.export(runs, tmp_path / "x.zip").read_bytes()
    at = traces()
    at.file_uploader(key="import").set_value(("x.zip", content, "application/zip")).run()
    assert store.ids() == sorted(runs)
    store.delete(runs[0])
    at.run()
    assert store.ids() == [runs[1]], "the same upload is not imported again"
    at.file_uploader(key="import").set_value(("y.zip", content[:300], "application/zip")).run()
    assert refused(at)
    assert not at.exception


def test_a_chosen_run_opens_in_explore(store) -> None:
    run = store.add(synthetic(1, tokens=20))
    at = traces()
    at.multiselect(key="chosen").set_value([run]).run()
    at.button(key="open").click().run()
    assert not at.exception
    assert "recorded then" in page_text(at)


def test_values_are_quoted_for_sql() -> None:
    assert records.quoted("it's") == "'it''s'"


@pytest.mark.model
def test_a_live_run_is_kept_with_its_dense_side_and_opens_again(store) -> None:
    at = press(app().run(), TEXT)
    at.button(key="keep").click().run()
    assert not at.exception
    assert len(store.ids()) == 2
    (row,) = store.query("SELECT id, dense_id, next_changed FROM runs WHERE policy IS NOT NULL").to_pylist()  # fmt: skip
    assert row["dense_id"] in store.ids()
    assert f"/run/{row['id']}?lang=en" in "\n".join(success.value for success in at.success)
    again = app(trace=row["id"]).run()
    assert figure(again, "Pairs dropped") == figure(at, "Pairs dropped")
    assert figure(again, "Time, SAA against dense") == figure(at, "Time, SAA against dense")


def test_columns_of_one_name_are_numbered(store: Store) -> None:
    store.add(synthetic(1), run="one")
    found = records.select('SELECT 1 AS a, 2 AS a, 3 AS "a (2)", 4 AS a, 5 AS b')
    assert found.to_pylist() == [{"a": 1, "a (3)": 2, "a (2)": 3, "a (4)": 4, "b": 5}]
