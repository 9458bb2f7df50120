"""A visitor of the app in Chromium whom nothing outside can reach: for every test with a browser."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, Route, expect, sync_playwright

from app.text import Words
from benchmarks.page.browser import ARGUMENTS, CHROMIUM, settle

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "tests" / "screenshots"
PATIENCE = 300_000
expect.set_options(timeout=PATIENCE)
PAGES = {
    "explore": "/",
    "tour": "/tour",
    "gate_map": "/gate_map",
    "compare": "/compare",
    "latency": "/latency",
    "trust": "/trust",
    "cost": "/cost",
    "traces": "/traces",
    "dataset": "/dataset",
    "present": "/present",
}
"""Every page by its name in the page's texts, and its path."""


@contextmanager
def visit(
    address: str, path: str = "/?lang=en", served: bool = False, **options: object
) -> Iterator[Page]:
    """A page that cannot reach the outside; a screenshot is kept if the test fails.

    Args:
        served: the page is a file of ours, without Streamlit.
    """
    settings = {"viewport": {"width": 1440, "height": 1000}, "color_scheme": "light", **options}
    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        page = browser.new_page(**settings)
        page.set_default_timeout(PATIENCE)
        outside: list[str] = []
        broken: list[str] = []

        def gate(route: Route) -> None:
            if route.request.url.startswith((address, "data:", "blob:")):
                route.continue_()
            else:
                outside.append(route.request.url)
                route.abort()

        page.route("**/*", gate)
        page.on("pageerror", lambda error: broken.append(str(error)))
        try:
            page.goto(address + path)
            if not served:
                settle(page)
            yield page
            assert outside == []
            assert broken == []
        except BaseException:
            page.screenshot(path=SCREENSHOTS / "failure.png")
            raise
        finally:
            browser.close()


def box(page: Page, label: str) -> Locator:
    return page.get_by_label(re.compile(f"^{label} "))


def chart(page: Page, which: int) -> Locator:
    return page.locator('[data-testid="stVegaLiteChart"]').nth(which).locator("canvas, svg").first


def click(place: Locator, across: float, down: float) -> None:
    """Clicks at a share of the width and height; scrolls there first."""
    area = place.bounding_box()
    assert area is not None
    place.click(position={"x": across * area["width"], "y": down * area["height"]}, force=True)


def go(page: Page, name: str, words: Words) -> None:
    """Goes to a page of `PAGES` by its link in the navigation, and waits until it is drawn."""
    page.get_by_role("link", name=words(f"page.{name}"), exact=True).click()
    drawn(page, name, words)


def drawn(page: Page, name: str, words: Words) -> None:
    """Waits until a page of `PAGES` is drawn and nothing of the page before is left."""
    title = words("app.title" if name == "explore" else f"page.{name}")
    page.get_by_role("heading", level=1, name=title, exact=True).wait_for()
    settle(page)
    page.wait_for_function("!document.querySelector('[data-stale=true], [data-testid=stSkeleton]')")
