"""The Dataset page without a browser: audits of the store, from a bar to its texts, in both languages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.components.dataset import audits
from benchmarks.synthetic import synthetic
from saa_core.store import Store
from saa_core.trace.audited import Audited
from tests.app.recorded import no_model
from tests.app.test_app import HOSTILE, app, figure, page_text, spoken


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    return Store()


@pytest.fixture(autouse=True)
def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page must not need a model."""
    no_model(monkeypatch)


@pytest.fixture
def audited(store: Store) -> Store:
    """Six texts of which two have numbers; the dense side of the worst is stored, too."""
    values = [(0.5, 0.30, ("numbers",)), (0.9, 0.02, ("numbers", "names")), (1.0, -0.01, ())]
    runs = {}
    for at, (agreement, lost, slices) in enumerate([*values, *[(1.0, 0.0, ())] * 3]):
        text = HOSTILE if at == 0 else f"Text number {at}."
        mark = Audited("mine-1", slices, agreement, lost)
        runs[f"audit-mine-1-{at}"] = replace(synthetic(at, text=text), layers=None, audited=mark)
    runs["dense-0"] = synthetic(0, policy=None, text=HOSTILE)
    store.add_missing(runs)
    return store


def dataset(**address: str) -> AppTest:
    at = app(**address)
    at.switch_page("views/dataset.py")
    return at.run()


def listed(at: AppTest) -> list[str]:
    return at.dataframe[0].value["id"].to_list()


def spec(at: AppTest, number: int) -> dict:
    return json.loads(at.get("vega_lite_chart")[number].proto.spec)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_without_an_audit_the_page_says_how_to_make_one(store: Store, lang: str) -> None:
    store.add(synthetic(1))
    at = dataset(lang=lang)
    assert not at.exception
    assert "saa audit" in at.code[0].value
    assert not at.dataframe


def test_figures_are_those_of_the_audit(audited: Store) -> None:
    at = dataset()
    assert not at.exception
    assert figure(at, "Texts") == "6"
    assert spoken(figure(at, "Next words the same")) == "90.0 %"
    assert "Over 6 texts, 90.0 % of the next words" in spoken(page_text(at))
    assert listed(at)[:2] == ["audit-mine-1-0", "audit-mine-1-1"], "worst first"
    assert at.dataframe[0].value["link"][0].startswith("/run/audit-mine-1-0?")
    assert at.query_params["audit"] == "mine-1"
    assert spec(at, 0)["params"][0]["select"]["fields"] == ["slice"]
    assert spec(at, 1)["params"][0]["select"]["fields"] == ["bar"]


def test_from_a_bar_to_its_texts(audited: Store) -> None:
    at = dataset()
    at.selectbox(key="slice").set_value("numbers").run()
    assert set(listed(at)) == {"audit-mine-1-0", "audit-mine-1-1"}
    at.selectbox(key="spread_of").set_value("lost").run()
    worst = at.selectbox(key="bar").options[-1]
    assert "(1 texts)" in worst
    at.selectbox(key="bar").select(worst).run()
    assert listed(at) == ["audit-mine-1-0"]
    at.selectbox(key="slice").set_value("all").run()
    assert at.selectbox(key="bar").value is None, "another kind of texts begins with all its bars"
    assert len(listed(at)) == 6
    assert not at.exception


def test_a_click_chooses_what_the_selector_would(monkeypatch: pytest.MonkeyPatch) -> None:
    state = type("State", (dict,), {"__setattr__": dict.__setitem__, "__getattr__": dict.get})
    monkeypatch.setattr(st, "session_state", state(bar=1))
    audits.choose_slice({"selection": {"slice": [{"slice": "names"}]}}, ["all", "names"])
    assert st.session_state == {"slice": "names", "dataset_moves": 1}
    audits.choose_bar({"selection": {"bar": [{"bar": 3}]}}, [0, 3])
    assert (st.session_state["bar"], st.session_state["dataset_moves"]) == (3, 2)
    for event in ({"selection": {}}, {"selection": {"bar": [{"bar": 9}]}}):
        audits.choose_bar(event, [0, 3])
    assert st.session_state["bar"] == 3


def test_an_address_chooses_audit_and_slice_and_nonsense_is_ignored(audited: Store) -> None:
    at = dataset(audit="mine-1", slice="names")
    assert at.selectbox(key="slice").value == "names"
    at = dataset(audit="other", slice="<b>")
    assert not at.exception
    assert at.selectbox(key="audit").value == "mine-1"
    assert at.selectbox(key="slice").value == "all"


def test_labels_are_counted_with_their_interval(store: Store) -> None:
    for at, same in enumerate((1.0, 1.0, 1.0, 0.0)):
        label = "positive" if same else "negative"
        trace = synthetic(at, label=label, text=f"Text {at}.")
        store.add(replace(trace, audited=Audited("mine-1", (), same, 0.1)), run=f"audit-{at}")
    at = dataset(lang="ja")
    assert not at.exception
    assert spoken(figure(at, "ラベルが同じ")) == "75.0 %"
    assert "95 % 信頼区間：19.4 % から 99.4 %" in spoken(page_text(at))
    assert at.selectbox(key="spread_of").value == "lost"


def test_a_text_of_an_audit_opens_in_explore(audited: Store) -> None:
    at = app(trace="audit-mine-1-0").run()
    assert not at.exception
    assert not at.error
    assert "recorded then" in page_text(at)


def test_a_click_asks_the_store_nothing_again_until_something_is_written(
    audited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    st.cache_data.clear()
    asked = list[str]()
    query = Store.query
    monkeypatch.setattr(
        Store,
        "query",
        lambda self, sql, **options: asked.append(sql) or query(self, sql, **options),
    )
    at = dataset()
    first = len(asked)
    assert first > 0
    at.run()
    assert len(asked) == first, "the same page again"
    assert "6" in page_text(at)
    mark = Audited("mine-1", (), 1.0, 0.0)
    audited.add_missing(
        {"audit-mine-1-9": replace(synthetic(9, text="Another."), layers=None, audited=mark)}
    )
    at.run()
    assert len(asked) > first
    assert figure(at, "Texts") == "7"


def test_the_version_of_a_store_changes_with_every_write(store: Store) -> None:
    seen = [store.version()]
    run = store.add(synthetic(0))
    seen.append(store.version())
    store.note(run, "n", tags=["t"])
    seen.append(store.version())
    Store(store.folder).delete(run)
    seen.append(store.version())
    assert len(set(seen)) == 4
    store.query("SELECT * FROM runs")
    assert store.version() == seen[-1]
