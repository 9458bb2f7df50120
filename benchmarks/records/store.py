"""How fast a large store answers: 10,000 traces listed, 1,000,000 head rows aggregated, a link opened.

    python -m benchmarks.records.store                  # writes benchmarks/results/store.json
    python -m benchmarks.records.store --link 5         # and opens links to a stored run in five new browser sessions each

The traces are synthetic (97 different ones under different texts), 10 layers x 10 heads and 12 tokens each, written as bare files, which the
store then indexes ("index_s", once). "list" and "aggregate" open the store anew each time, as a command
line would. "link" and "explorer": from going to the address in a fresh browser context of a running app that has
been visited once until the figures of the run, and of a link its map, are on the page; a link leads to /run/ID, the
explorer is Streamlit's own page of the same run.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.page.browser import ARGUMENTS, CHROMIUM, serve
from benchmarks.synthetic import synthetic
from saa_core import files
from saa_core.files import write_json
from saa_core.store import Store
from saa_core.trace.record import versions
from saa_core.types import quartiles

RESULTS = Path(__file__).parent.parent / "results"
LAYERS, HEADS = 10, 10
LIST = "SELECT id, recorded, model, policy, tokens, density, label, note, tags FROM runs ORDER BY recorded DESC"
AGGREGATE = (
    "SELECT layer, head, avg(density), min(density), count(*) FROM heads GROUP BY layer, head"
)

DRAWN = "p.pair:not(:empty)"
"""The map of a report says what the chosen pair is; its figures stand above it."""
FOUR_FIGURES = '[data-testid="stMetricValue"] >> nth=3'


def fill_store(folder: Path, count: int) -> None:
    """Bare trace files of 97 different runs, each under a text of its own. Nobody needs them after a
    power cut, so none is waited for."""
    waits, files.flush = files.flush, lambda _path: None
    kinds = [
        synthetic(seed, layers=LAYERS, heads=HEADS, density=0.1 + 0.8 * seed / 97)
        for seed in range(min(count, 97))
    ]
    try:
        for number in range(count):
            trace = replace(kinds[number % 97], text=f"text {number}")
            trace.save(folder / f"20260101T000000Z-{number:08x}.saa")
    finally:
        files.flush = waits


def time_queries(what: Callable[[], int], expected: int, repeats: int) -> dict[str, Any]:
    """Seconds of each repetition; what comes back has so many rows."""
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        rows = what()
        samples.append(time.perf_counter() - start)
        if rows != expected:
            raise RuntimeError(f"{rows} rows came back, {expected} were expected")
    low, middle, high = quartiles(samples)
    return {"median_s": middle, "quartiles_s": [low, high], "samples_s": samples}


def time_opening(folder: Path, sessions: int) -> dict[str, dict[str, Any]]:
    """Seconds until a stored run is on the page, each in a new browser context; the first warms up."""
    from playwright.sync_api import sync_playwright

    os.environ["SAA_STORE"] = str(folder)
    run = Store(folder).ids()[0]
    pages = {
        "link": (f"/run/{run}?lang=en", DRAWN),
        "explorer": (f"/?trace={run}&lang=en", FOUR_FIGURES),
    }
    found = {}
    with serve(folder.parent / "log") as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        for name, (path, there) in pages.items():
            samples = []
            for _ in range(sessions + 1):
                page = browser.new_context().new_page()
                page.set_default_timeout(180_000)
                start = time.perf_counter()
                page.goto(address + path)
                page.locator(there).wait_for()
                samples.append(time.perf_counter() - start)
                page.context.close()
            low, middle, high = quartiles(samples[1:])
            found[name] = {
                "first_visit_s": samples[0],
                "median_s": middle,
                "quartiles_s": [low, high],
                "samples_s": samples[1:],
            }
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--link", type=int, default=0, help="browser sessions that open a link")
    parser.add_argument("--out", type=Path, default=RESULTS / "store.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        folder.mkdir()
        fill_store(folder, options.traces)
        start = time.perf_counter()
        Store(folder)
        found: dict[str, Any] = {
            "traces": options.traces,
            "head_rows": options.traces * LAYERS * HEADS,
            "index_s": time.perf_counter() - start,
            "list": time_queries(
                lambda: len(Store(folder).query(LIST)), options.traces, options.repeats
            ),
            "aggregate": time_queries(
                lambda: len(Store(folder).query(AGGREGATE)), LAYERS * HEADS, options.repeats
            ),
            "versions": versions(),
        }
        if options.link:
            found |= time_opening(folder, options.link)
    write_json(options.out, found)
    for name in ("list", "aggregate", "link", "explorer"):
        if name in found:
            print(f"{name}: {found[name]['median_s']:.3f} s (median)")


if __name__ == "__main__":
    main()
