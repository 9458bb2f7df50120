"""Every page under axe-core, in both languages and themes: no serious or critical violation."""

from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from app import text
from benchmarks.synthetic import synthetic
from saa_core.store import Store
from saa_core.trace.audited import Audited
from tests.app.visitor import PAGES, drawn, go, visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

STRICT = ("serious", "critical")
WAY = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}


@pytest.fixture
def store(address: str) -> Store:
    """What Traces and Dataset show: a run with note and tag, and an audit of three texts."""
    made = Store()
    made.add(synthetic(9), note="Look at layer 3.", tags=["demo"])
    for at, slices in enumerate([("numbers",), ("numbers", "names"), ()]):
        mark = Audited("mine-1", slices, agreement=1 - 0.3 * at, lost=0.1 * at)
        run = replace(synthetic(at), layers=None, audited=mark)
        made.add_missing({f"audit-mine-1-{at}": run})
    return made


def violations(page: Page) -> list[str]:
    """Rule, place and reason of what axe holds for serious or critical, shadow roots included."""
    found = Axe().run(page, options=WAY).response["violations"]
    return [
        f"{rule['id']} at {node['target']}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
        if rule["impact"] in STRICT
    ]


@pytest.mark.parametrize(
    ("lang", "scheme"),
    [
        pytest.param("en", "light", marks=pytest.mark.long),
        ("ja", "dark"),
        pytest.param("en", "dark", marks=pytest.mark.long),
        pytest.param("ja", "light", marks=pytest.mark.long),
    ],
)
def test_no_page_has_a_serious_violation(
    address: str, store: Store, lang: str, scheme: str
) -> None:
    words, found = text.load(lang), {}
    with visit(address, f"/?lang={lang}&example=story", color_scheme=scheme) as page:
        page.locator(".st-key-inspector").wait_for()
        for name in PAGES:
            if name == "explore":
                drawn(page, name, words)
            else:
                go(page, name, words)
            found[name] = violations(page)
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_no_result_of_a_button_has_a_serious_violation(address: str, store: Store) -> None:
    words = text.load("en")
    with visit(address, "/trust?lang=en&example=story") as page:
        page.locator(".st-key-try button").click()
        page.locator("#verdict").wait_for()
        drawn(page, "trust", words)
        assert violations(page) == []
        go(page, "gate_map", words)
        page.get_by_role("button", name=words("details.explain")).click()
        page.locator('[data-testid="stMetricValue"]').nth(5).wait_for()
        drawn(page, "gate_map", words)
        assert violations(page) == []
    with visit(address, "/?lang=en&text=%20") as page:  # what cannot be run ends in a sentence
        page.locator(".st-key-run button").click()
        page.get_by_role("alert").wait_for()
        drawn(page, "explore", words)
        assert violations(page) == []


def test_a_violation_is_found(address: str) -> None:
    with visit(address, "/?lang=en") as page:
        page.evaluate("document.querySelector('h1').innerHTML += '<img src=\"data:,\">'")
        assert any(line.startswith("image-alt ") for line in violations(page))
