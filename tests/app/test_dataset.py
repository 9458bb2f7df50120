"""The Dataset page without a browser: audits of the store, from a bar to its texts, in both languages."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlparse

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import service, text
from app.components.dataset import against, audits
from app.components.dataset.against import compare_address
from app.state import session
from benchmarks.synthetic import synthetic
from saa_core.audit.comparison import Move, Setting
from saa_core.audit.figures import About
from saa_core.bounds import binomial_interval
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


def compared(store: Store) -> Store:
    """Two audits of five texts: two labels of numbers are other ones, and one text only the first ran."""
    p, n = "positive", "negative"
    sides = {"first": (p, p, n, p, p), "second": (n, p, n, n, None)}
    slices = (("numbers",), ("numbers",), ("names",), ("numbers", "names"), ())
    runs = {}
    for audit, labels in sides.items():
        for at, label in enumerate(labels):
            if label is not None:
                content = HOSTILE if at == 0 else f"Text number {at}."
                trace = synthetic(at, label=label, text=content, policy=saa.Policy(mass=0.9))
                mark = Audited(audit, slices[at], 1.0, 0.1)
                runs[f"audit-{audit}-{at}"] = replace(trace, layers=None, audited=mark)
    store.add_missing(runs)
    return store


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_two_audits_are_compared_by_kind_of_text(store: Store, lang: str) -> None:
    compared(store)
    at = dataset(audit="first", against="second", lang=lang)
    words = text.load(lang)
    assert not at.exception
    low, high = binomial_interval(2, 4, 0.05)
    verdict = words(
        "against.verdict_labels",
        texts=4,
        changed=2,
        share=words.percent(0.5, 1),
        low=words.percent(low, 1),
        high=words.percent(high, 1),
    )
    assert verdict in page_text(at)
    kinds = table_with(at, words("against.share"))
    assert list(kinds[words("dataset.slice")]) == [
        words(f"slice.{name}") for name in ("all", "numbers", "names")
    ]
    assert list(kinds[words("dataset.texts")]) == [4, 3, 2]
    assert list(kinds[words("against.labels_changed")]) == [2, 2, 1]
    (move,) = table_with(at, "count").to_dict("records")
    assert (move["before"], move["after"], move["count"]) == ("positive", "negative", 2)
    changed = table_with(at, "a")
    assert set(changed["text"]) == {HOSTILE, "Text number 3."}
    assert HOSTILE not in page_text(at), "a text is never taken for Markdown"
    assert set(changed["both"]) == {None}, "a gate that no list has cannot be named in an address"
    assert at.query_params["against"] == "second"
    at.selectbox(key="against_slice").set_value("names").run()
    assert list(table_with(at, "a")["text"]) == ["Text number 3."]
    at.selectbox(key="against").set_value(None).run()
    assert not at.exception
    assert "against" not in at.query_params


def table_with(at: AppTest, column: str) -> pd.DataFrame:
    return next(each.value for each in at.dataframe if column in each.value)


def test_what_opens_in_explore_is_the_run(store: Store) -> None:
    compared(store)
    first = table_with(dataset(audit="first", against="second"), "a")["a"][0]
    asked = parse_qs(urlparse(first).query)
    at = app(trace=asked["trace"][0]).run()
    assert not at.exception
    assert "recorded then" in page_text(at)


def test_next_words_are_compared_without_a_model_and_said_how_to_read_them(store: Store) -> None:
    for audit, other in (("first", 2), ("second", 7)):
        trace = synthetic(1, tokens=3, text="Three words here.")
        tops = np.array([[1, 99], [other, 99], [3, 99]])
        mark = Audited(audit, (), 1.0, 0.0)
        probs = np.full((3, 2), 0.5)
        store.add(
            replace(trace, layers=None, top_ids=tops, top_probs=probs, audited=mark),
            run=f"audit-{audit}",
        )
    at = dataset(audit="first", against="second")
    assert not at.exception
    assert "33.3 % of the next words are other ones" in spoken(page_text(at))
    assert text.load("en")("against.spell", model="synthetic") in page_text(at)
    assert table_with(at, "a")["words"][0] == pytest.approx(1 / 3)


def test_an_audit_of_other_texts_is_not_offered(audited: Store) -> None:
    at = dataset(against="<b>")
    assert not at.exception
    assert text.load("en")("against.nothing") in page_text(at)


def test_without_a_model_no_table_is_asked_for(store: Store) -> None:
    at = dataset()
    assert text.load("en")("upload.on_request") in page_text(at)
    at.button(key="request").click().run()
    assert text.load("en")("upload.no_model") in page_text(at)
    assert not [each for each in at.get("file_uploader") if each.key == "table"]


SIDE = Setting("minilm + sentences", "gate", True, "mass", 0.95, 0.5)


def test_the_compare_page_is_addressed_with_both_settings() -> None:
    words = text.load("ja")
    address = compare_address("Ein Text & mehr", SIDE, replace(SIDE, aim=0.8, tokens=None), words)
    asked = {name: value for name, (value,) in parse_qs(urlparse(address).query).items()}
    assert asked == {
        "lang": "ja",
        "text": "Ein Text & mehr",
        "model": "minilm + sentences",
        "mass": "0.95",
        "tokens": "0.50",
        "b_how": "saa",
        "b_mass": "0.80",
    }
    other = replace(SIDE, model="minilm + reviews", gate="another")
    assert "b_model=minilm" in compare_address("A", SIDE, other, words)


@pytest.mark.parametrize(
    "other",
    [
        replace(SIDE, gate="another"),
        replace(SIDE, model="somebody/model"),
        replace(SIDE, trained=False),
        replace(SIDE, rule=None),
        replace(SIDE, aim=0.2),
    ],
)
def test_what_an_address_cannot_say_is_not_addressed(other: Setting) -> None:
    words = text.load("en")
    assert compare_address("A text.", SIDE, SIDE, words) is not None
    assert compare_address("A text.", SIDE, other, words) is None
    assert compare_address("A" * 1501, SIDE, SIDE, words) is None


def test_next_words_are_written_as_their_model_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {1: " the", 2: "\N{REPLACEMENT CHARACTER}", 3: "\n"}
    monkeypatch.setattr(service.Client, "spell", lambda _, __, ids: [written[each] for each in ids])
    model = SimpleNamespace(spec=SimpleNamespace(name="smollm2"))
    choice = session.Choice("smollm2 + saa-joint", model, saa.Policy())
    found = [Move(1, 2, 3, 1), Move(3, 1, 1, 1)]
    which = About("key", "smollm2 + saa-joint", "mass 0.9", 4, False)
    names = against._names(found, which, choice, service.Client(), text.load("en"))
    assert names == {1: "␣the", 2: "part of a character (token 2)", 3: r"\n"}
    other = replace(which, model="somebody/else")
    assert against._names(found, other, choice, service.Client(), text.load("en")) is None
