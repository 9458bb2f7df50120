"""Two hundred hostile texts: each ends in a run or a sentence, and none is ever taken for markup."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import text
from app.state import session
from saa_core.report import report
from saa_core.run.classify import classify
from saa_core.store import Store
from tests import hostile
from tests.app.visitor import drawn, go, visit

ROOT = Path(__file__).parents[2]
TEXTS = hostile.texts()
REFUSED = {"nothing", "surrogate", "megabyte"}
WORDS = text.load("en")
HANDLERS = ("onerror", "onload", "onmouseover", "onfocus", "ontoggle", "onclick")


@pytest.fixture(scope="module")
def runs(smollm2: saa.Model) -> dict[str, saa.Trace | saa.SAAError]:
    """What came of each text."""
    found: dict[str, saa.Trace | saa.SAAError] = {}
    for _, content in TEXTS:
        try:
            found[content] = saa.run(smollm2, content, saa.Policy(mass=0.9))
        except saa.SAAError as error:
            found[content] = error
    return found


def traces(runs: dict[str, saa.Trace | saa.SAAError]) -> list[saa.Trace]:
    return [run for run in runs.values() if isinstance(run, saa.Trace)]


def test_a_text_is_run_or_refused_in_a_sentence(runs) -> None:
    for kind, content in TEXTS:
        run = runs[content]
        if isinstance(run, saa.Trace):
            assert run.text == content
            assert np.isfinite(run.density).all(), kind
            assert np.isfinite(run.hidden).all(), kind
        else:
            assert kind in REFUSED or any(part in REFUSED for part in kind.split(" and ")), kind
            assert str(run).startswith("text "), run
            assert len(str(run)) < 300
    assert len(traces(runs)) > 180


def test_labels_are_found_for_all_that_can_be_read(runs) -> None:
    model = saa.load("minilm", task="spam", device="cpu")
    readable = [trace.text for trace in traces(runs)]
    found = list(classify(model, readable, saa.Policy(mass=1.0, tokens=0.5)))
    assert len(found) == len(readable)
    assert all(sum(one.probabilities.values()) == pytest.approx(1, abs=1e-4) for one in found)


class _Elements(HTMLParser):
    """Every element of a page that has the mark or runs code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        self.scripts += tag == "script"
        if hostile.MARK in names or names & {*HANDLERS}:
            self.found.append(tag)


def test_a_report_holds_its_own_elements_only(runs) -> None:
    scripts = set()
    for trace in traces(runs):
        page = _Elements()
        page.feed(report(trace, name=trace.text[:40]))
        assert page.found == [], trace.text
        scripts.add(page.scripts)
    assert len(scripts) == 1, "every report has the same number of scripts"


@pytest.fixture(scope="module")
def store(runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("hostile") / "store"
    kept = Store(folder)
    kept.add_missing({f"hostile-{at}": trace for at, trace in enumerate(traces(runs))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAA_STORE", str(folder))
        yield kept


def one_of_each_kind() -> list[tuple[str, str]]:
    first = dict.fromkeys(kind for kind, _ in TEXTS if " and " not in kind)
    return [next(each for each in TEXTS if each[0] == kind) for kind in first]


@pytest.mark.parametrize(
    ("kind", "content"),
    # The protocol between page and server has no lone surrogates, so nobody can type one.
    [pytest.param(*each, id=each[0]) for each in one_of_each_kind() if each[0] != "surrogate"],
)
def test_a_typed_text_leaves_no_traceback(monkeypatch, kind: str, content: str) -> None:
    monkeypatch.setattr(session.Client, "cold", lambda self, name: [])
    at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
    at.query_params["lang"] = "en"
    at.run()
    at.text_area(key="text").set_value(content)
    at.button(key="run").click().run()
    _clean(at)
    assert bool(at.error) == (kind in REFUSED), [shown.value for shown in at.error]


def test_a_recorded_text_leaves_no_traceback(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(session.Client, "cold", lambda self, name: [])
    for run in store.ids()[::8]:
        at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
        at.query_params["lang"], at.query_params["trace"] = "ja", run
        _clean(at.run())
        assert not at.error


def _clean(at: AppTest) -> None:
    assert not at.exception
    assert not any("Traceback" in shown.value for shown in at.error)
    for element in at.get("html"):
        page = _Elements()
        page.feed(element.proto.body)
        assert page.found == []
    assert not any(element.allow_html for element in at.markdown)


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_no_page_takes_a_text_for_markup(address: str, runs) -> None:
    """Each page in the browser: kept runs in the list and in the map, and typed texts on every page of a run."""
    kept = Store()
    found = {f"hostile-{at}": trace for at, trace in enumerate(traces(runs))}
    kept.add_missing(found)
    kinds = dict(TEXTS[::-1])
    kept.note("hostile-0", kinds["markup"], tags=["<b data-hostile>"])
    with visit(address, "/traces?lang=en") as page:
        drawn(page, "traces", WORDS)
        _unhurt(page)
        page.get_by_role("textbox", name=WORDS("traces.search"), exact=True).fill(
            "<b data-hostile>"
        )
        page.keyboard.press("Enter")
        drawn(page, "traces", WORDS)
        _unhurt(page)
    for kind in ("markup", "markdown", "latex", "bidi", "emoji", "combining"):
        with visit(address, "/?lang=en") as page:
            page.get_by_label(WORDS("explore.text")).fill(kinds[kind])
            page.locator(".st-key-run button").click()
            page.locator(".st-key-inspector").wait_for()
            for name in ("explore", "gate_map", "compare", "trust"):
                if name != "explore":
                    go(page, name, WORDS)
                _unhurt(page)
    for run in list(found)[::20]:
        with visit(address, f"/run/{run}?lang=en", served=True) as page:
            page.locator("p.pair:not(:empty)").wait_for()
            _unhurt(page)


def _unhurt(page: Page) -> None:
    """Nothing of a text became an element, in shadow trees as little as elsewhere, and nothing of it ran."""
    assert page.locator(f"[{hostile.MARK}]").count() == 0
    assert (
        page.locator("[src*='x.invalid'], [href*='x.invalid'], [href^='javascript:']").count() == 0
    )
    assert page.evaluate("window.hacked") is None
    assert "Traceback" not in page.locator("body").inner_text()
