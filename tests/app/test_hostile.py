"""Two hundred hostile texts: each ends in a run or a sentence, and none is ever taken for markup.

Forty that cover every kind meet the real model; all of them meet it in the long tests, and the report in all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import text
from benchmarks.synthetic import synthetic
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


def one_of_each_kind() -> list[tuple[str, str]]:
    first = dict.fromkeys(kind for kind, _ in TEXTS if " and " not in kind)
    return [next(each for each in TEXTS if each[0] == kind) for kind in first]


def forty() -> list[tuple[str, str]]:
    """One of each kind, and mixtures of two."""
    alone = one_of_each_kind()
    mixed = [each for each in TEXTS if " and " in each[0]]
    return alone + mixed[: 40 - len(alone)]


@pytest.fixture(scope="module", params=["forty", pytest.param("all", marks=pytest.mark.long)])
def runs(request: pytest.FixtureRequest, smollm2: saa.Model) -> dict[str, saa.Trace | saa.SAAError]:
    """What came of each text."""
    found: dict[str, saa.Trace | saa.SAAError] = {}
    for _, content in forty() if request.param == "forty" else TEXTS:
        try:
            found[content] = saa.run(smollm2, content, saa.Policy(mass=0.9))
        except saa.SAAError as error:
            found[content] = error
    return found


def traces(runs: dict[str, saa.Trace | saa.SAAError]) -> list[saa.Trace]:
    return [run for run in runs.values() if isinstance(run, saa.Trace)]


def test_a_text_is_run_or_refused_in_a_sentence(runs) -> None:
    kinds = {content: kind for kind, content in TEXTS}
    for content, run in runs.items():
        kind = kinds[content]
        if isinstance(run, saa.Trace):
            assert run.text == content
            assert np.isfinite(run.density).all(), kind
            assert np.isfinite(run.hidden).all(), kind
        else:
            assert kind in REFUSED or any(part in REFUSED for part in kind.split(" and ")), kind
            assert str(run).startswith("text "), run
            assert len(str(run)) < 300
    assert len(traces(runs)) > 0.9 * len(runs)


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


def own_elements_only(made: Iterable[saa.Trace]) -> None:
    scripts = set()
    for trace in made:
        page = _Elements()
        page.feed(report(trace, name=trace.text[:40]))
        assert page.found == [], trace.text
        scripts.add(page.scripts)
    assert len(scripts) == 1, "every report has the same number of scripts"


def test_a_report_holds_its_own_elements_only(runs) -> None:
    own_elements_only(traces(runs))


def test_a_report_of_any_text_holds_its_own_elements_only() -> None:
    """All of them, on a made-up run: whole as the text, its parts as the tokens."""
    plain = synthetic(0, tokens=6)
    made = []
    for _, content in TEXTS:
        size = -(-len(content) // 6) or 1
        cut = [(at * size, min((at + 1) * size, len(content))) for at in range(6)]
        tokens = tuple(content[start:end] for start, end in cut)
        made.append(replace(plain, text=content, tokens=tokens, offsets=tuple(cut)))
    own_elements_only(made)


@pytest.fixture(scope="module")
def store(runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("hostile") / "store"
    kept = Store(folder)
    kept.add_missing({f"hostile-{at}": trace for at, trace in enumerate(traces(runs))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAA_STORE", str(folder))
        yield kept


@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "content"),
    # The protocol between page and server has no lone surrogates, so nobody can type one.
    [pytest.param(*each, id=each[0]) for each in one_of_each_kind() if each[0] != "surrogate"],
)
def test_a_typed_text_leaves_no_traceback(kind: str, content: str) -> None:
    at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
    at.query_params["lang"] = "en"
    at.run()
    at.text_area(key="text").set_value(content)
    at.button(key="run").click().run()
    _clean(at)
    assert bool(at.error) == (kind in REFUSED), [shown.value for shown in at.error]


def test_a_recorded_text_leaves_no_traceback(store: Store) -> None:
    for run in store.ids()[::4]:
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


@pytest.mark.timeout(900)
def test_no_list_and_no_report_takes_a_kept_text_for_markup(address: str, runs) -> None:
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
    for run in list(found)[:: 12 if len(found) < 100 else 20]:
        with visit(address, f"/run/{run}?lang=en", served=True) as page:
            page.locator("p.pair:not(:empty)").wait_for()
            _unhurt(page)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "kind",
    [
        "markup",
        "markdown",
        *(
            pytest.param(kind, marks=pytest.mark.long)
            for kind in ("latex", "bidi", "emoji", "combining")
        ),
    ],
)
def test_no_page_takes_a_typed_text_for_markup(address: str, kind: str) -> None:
    with visit(address, "/?lang=en") as page:
        page.get_by_label(WORDS("explore.text")).fill(dict(TEXTS[::-1])[kind])
        page.locator(".st-key-run button").click()
        page.locator(".st-key-inspector").wait_for()
        for name in ("explore", "gate_map", "compare", "trust"):
            if name != "explore":
                go(page, name, WORDS)
            _unhurt(page)


def _unhurt(page: Page) -> None:
    """Nothing of a text became an element, in shadow trees as little as elsewhere, and nothing of it ran."""
    assert page.locator(f"[{hostile.MARK}]").count() == 0
    assert (
        page.locator("[src*='x.invalid'], [href*='x.invalid'], [href^='javascript:']").count() == 0
    )
    assert page.evaluate("window.hacked") is None
    assert "Traceback" not in page.locator("body").inner_text()
