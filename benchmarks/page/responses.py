"""How long people wait for a page: alone, with long texts, and many at once.

    python -m benchmarks.page.responses                            # all parts, benchmarks/results/responses.json
    python -m benchmarks.page.responses --label before --root OTHER/CHECKOUT

Starts the app of a checkout on a free loopback port and visits it in headless Chromium on the same cores.
Clocks run in the page, from the pointer going down: "first" is when the sentence and the figures of a run are
there, "rest" when nothing runs any more. A part that has been measured under a label is not measured again;
every sample is written as soon as it is there, with the load of the machine just before.

run: texts of about 100 tokens, each in a fresh page. long, longest: about 2,400 and 7,900 tokens; beside them
one dense and one sparse pass of the same text, by the library alone. visitors: six press Run at once, with
different texts. hover: from the pointer over a token until something on the page has changed, None where
nothing does. gallery: twenty open an example at once. soak: ten click about for ten minutes.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from tokenizers import Tokenizer

from benchmarks.page.browser import ARGUMENTS, CHROMIUM, ROOT, Served, serve, settle
from benchmarks.page.ui import resident_mib
from saa_core.data import fetch
from saa_core.files import write_json
from saa_core.trace.record import versions

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("run", "hover", "visitors", "gallery", "long", "longest", "soak")
TOKENS = {"run": 100, "long": 2400, "longest": 7900}
PATIENCE = 900_000
REACHED = """(button) => {
  const app = () => document.querySelector('[data-testid="stApp"]');
  const figures = () => document.querySelector('#verdict')
    && document.querySelectorAll('[data-testid="stMetricValue"]').length >= 3
    && !document.querySelector('#verdict').closest('[data-stale=true]');
  const rest = () => figures() && app().dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-testid="stProgress"]');
  window.reached = {};
  button.addEventListener('pointerdown', () => {
    const start = performance.now();
    const look = () => {
      const now = performance.now() - start;
      if (!('first' in window.reached) && figures()) window.reached.first = now;
      if (rest()) { window.reached.rest = now; return; }
      requestAnimationFrame(look);
    };
    look();
  }, { once: true, capture: true });
}"""
TOKEN = '[role="listbox"] [role="option"]'
HOVERED = """(token) => {
  window.shown = undefined;
  token.addEventListener('pointerover', () => {
    const start = performance.now();
    const watch = new MutationObserver(() => {
      watch.disconnect();
      // Two frames on, what was drawn is on the screen.
      requestAnimationFrame(() => requestAnimationFrame(() => {
        window.shown = performance.now() - start;
      }));
    });
    watch.observe(token.getRootNode(), { subtree: true, childList: true, attributes: true });
    setTimeout(() => { if (window.shown === undefined) window.shown = null; }, 1000);
  }, { once: true, capture: true });
}"""
RESTED = "() => window.reached && window.reached.rest"
PASSES = """
import json, sys, time
import saa_core as saa
from saa_core.run.execute import execute
model = saa.load("smollm2", device="cpu")
ids = model.tokenize(sys.stdin.read())
execute(model, [ids[:600]], model.spec.policy.decided())
found = {"tokens": len(ids)}
for name, policy in (("dense_ms", None), ("saa_ms", model.spec.policy.decided())):
    started = time.perf_counter()
    execute(model, [ids], policy)
    found[name] = 1000 * (time.perf_counter() - started)
print(json.dumps(found))
"""


class Log:
    """What was measured, written after every sample."""

    def __init__(self, file: Path, label: str) -> None:
        self.file, self.label = file, label
        self.all: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        self.own: dict[str, Any] = self.all.setdefault(label, {})
        self.own["machine"] = {**versions(), "processor": processor()}

    def samples(self, part: str, enough: int, measure: Callable[[int], dict[str, Any]]) -> None:
        """Takes samples until there are enough."""
        found = self.own.setdefault(part, {"samples": []})["samples"]
        while len(found) < enough:
            load = os.getloadavg()[0]
            found.append(
                {**measure(len(found)), "load": load, "at": time.strftime("%FT%TZ", time.gmtime())}
            )
            print(self.label, part, json.dumps(found[-1])[:300], flush=True)
            write_json(self.file, self.all)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")


def open_page(browser: Browser, address: str, path: str = "/?lang=en&model=smollm2") -> Page:
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}{path}")
    return page


def ready(page: Page, text: str) -> None:
    """Types a text and puts the clock on the button."""
    settle(page)
    page.get_by_label("Your text").fill(text)
    page.wait_for_timeout(500)
    run_button(page).evaluate(REACHED)


def run_button(page: Page) -> Any:
    return page.get_by_role("button", name="Run", exact=True)


def passage(tokens: int) -> str:
    """The beginning of a novel, over and over where it is too short, of so many tokens of SmolLM2."""
    tokenizer = Tokenizer.from_file(str(fetch.model_dir("smollm2") / "tokenizer.json"))
    novel = (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
    found = novel
    while len(ends := tokenizer.encode(found).offsets) < tokens:
        found += novel
    return found[: ends[tokens - 1][1]]


def excerpt(tokens: int, turn: int) -> str:
    """About so many tokens, with another beginning each time, so that nothing is known already."""
    return f"Part {turn} of {time.time_ns()}. {passage(tokens - 25)}"


def press(browser: Browser, address: str, tokens: int, turn: int) -> dict[str, Any]:
    """ms from Run to first figures and to rest, in a fresh page."""
    page = open_page(browser, address)
    ready(page, excerpt(tokens, turn))
    run_button(page).click()
    page.wait_for_function(RESTED)
    found = dict(page.evaluate("() => window.reached"))
    errors = page.locator('[data-testid="stException"]').count()
    page.context.close()
    return {"tokens": tokens, "errors": errors, **found}


def hover(browser: Browser, address: str, times: int) -> dict[str, Any]:
    """ms from the pointer over each of some tokens until it shows."""
    page = open_page(browser, address)
    ready(page, excerpt(TOKENS["run"], 0))
    run_button(page).click()
    page.wait_for_function(RESTED)
    tokens, shown = page.locator(TOKEN), []
    for at in range(times):
        token = tokens.nth(5 + 3 * at)
        token.scroll_into_view_if_needed()
        page.mouse.move(0, 0)
        page.wait_for_timeout(300)
        token.evaluate(HOVERED)
        token.hover()
        page.wait_for_function("() => window.shown !== undefined")
        shown.append(page.evaluate("() => window.shown"))
    page.context.close()
    return {"shown_ms": shown}


def passes(tokens: int, root: Path) -> dict[str, Any]:
    """One dense and one sparse pass by the library of a checkout, in a process of its own."""
    own = {} if root == ROOT else {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", PASSES],
        input=passage(tokens),
        cwd=root,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    return {"passes": json.loads(done.stdout.splitlines()[-1])}


def visitors(browser: Browser, address: str, count: int) -> dict[str, Any]:
    """All press Run in the same moment, each with a text of their own; ms by visitor."""
    pages = [open_page(browser, address) for _ in range(count)]
    for turn, page in enumerate(pages):
        ready(page, excerpt(TOKENS["run"], turn))
    for page in pages:
        run_button(page).click(no_wait_after=True)
    found = []
    for page in pages:
        page.wait_for_function(RESTED)
        found.append(dict(page.evaluate("() => window.reached")))
        page.context.close()
    last = {f"last_{stage}": max(each[stage] for each in found) for stage in ("first", "rest")}
    return {"visitors": found, **last}


def gallery(browser: Browser, address: str, count: int) -> dict[str, Any]:
    """Everybody opens an example of the gallery by its address; seconds until the last sees its figures."""
    table = tomllib.loads((fetch.assets() / "examples" / "examples.toml").read_text("utf-8"))
    names = [each["id"] for each in table["example"] if "model" not in each]
    contexts = [browser.new_context() for _ in range(count)]
    pages = [context.new_page() for context in contexts]
    started = time.monotonic()
    for turn, page in enumerate(pages):
        page.set_default_timeout(PATIENCE)
        path = f"/?lang=en&model=smollm2&example={names[turn % len(names)]}"
        page.goto(address + path, wait_until="commit")
    waited, errors = [], 0
    for page in pages:
        page.locator("#verdict").wait_for()
        waited.append(1000 * (time.monotonic() - started))
        errors += page.locator('[data-testid="stException"]').count()
    for context in contexts:
        context.close()
    return {"last_first": max(waited), "visitors_first": waited, "errors": errors}


def soak(served: Served, browser: Browser, people: int, minutes: float) -> dict[str, Any]:
    """People who run texts, go from page to page and choose heads, a click every second or so."""
    draw = random.Random(0)
    pages = [open_page(browser, served.address) for _ in range(people)]
    broken: list[str] = []
    for page in pages:
        page.on("pageerror", lambda error: broken.append(str(error)))
        settle(page)
        page.set_default_timeout(20_000)
    shared = [f"Text {at}. {passage(TOKENS['run'])}" for at in range(8)]
    begun = time.monotonic()
    memory, clicks, errors, late = [], 0, 0, 0
    while (passed := time.monotonic() - begun) < 60 * minutes:
        page = draw.choice(pages)
        try:
            click_about(page, draw, shared)
            clicks += 1
        except Exception as error:  # a page that is being drawn again: counted, not hidden
            late += 1
            broken += [] if "Timeout" in type(error).__name__ else [str(error)]
        errors += page.locator('[data-testid="stException"]').count()
        memory.append([passed, resident_mib(served.pid)])
        page.wait_for_timeout(draw.uniform(200, 1000))
    for page in pages:
        page.context.close()
    at_two = [mib for passed, mib in memory if passed <= 120][-1]
    most = max(mib for passed, mib in memory if passed > 120)
    found = {"clicks": clicks, "late": late, "errors": errors, "broken": broken[:20]}
    return {
        **found,
        "mib_at_two": at_two,
        "mib_most": most,
        "ratio": most / at_two,
        "memory": memory,
    }


def click_about(page: Page, draw: random.Random, shared: list[str]) -> None:
    what = draw.random()
    if what < 0.35:
        if page.get_by_label("Your text").count():
            text = draw.choice(shared) if draw.random() < 0.7 else excerpt(100, draw.randrange(999))
            page.get_by_label("Your text").fill(text)
            run_button(page).click()
        else:
            page.get_by_role("link", name="Explore", exact=True).click()
    elif what < 0.75:
        name = draw.choice(["Explore", "Gate map", "Compare", "Latency", "Trust", "Cost", "Traces"])
        page.get_by_role("link", name=name, exact=True).click()
    else:
        boxes = page.locator('input[type="number"]:visible')
        if count := boxes.count():
            box = boxes.nth(draw.randrange(count))
            box.fill(str(draw.randrange(8)))
            box.press("Enter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--what", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--label", default="after", help="under which the samples stand")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is served")
    parser.add_argument(
        "--samples", type=int, default=5, help="of run; of visitors and gallery 3 at most"
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--people", type=int, default=10, help="of the soak")
    parser.add_argument("--out", type=Path, default=RESULTS / "responses.json")
    options = parser.parse_args()
    root, log = options.root.resolve(), Log(options.out, options.label)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        for part in options.what:  # a server each: what one leaves behind is nobody else's
            with serve(Path(folder) / f"{part}.log", root) as served:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
                press(browser, served.address, TOKENS["run"], -1)  # loads and warms up
                take(part, served, browser, log, options)
                browser.close()


def take(
    part: str, served: Served, browser: Browser, log: Log, options: argparse.Namespace
) -> None:
    """All samples of one part."""
    few, tokens, place = min(options.samples, 3), TOKENS.get(part, 0), served.address
    if part == "run":
        log.samples(part, options.samples, lambda turn: press(browser, place, tokens, turn))
    elif part in TOKENS:
        root = options.root.resolve()
        both = lambda turn: press(browser, place, tokens, turn) | passes(tokens, root)  # noqa: E731
        log.samples(part, min(few, 2), both)
    elif part == "hover":
        log.samples(part, 1, lambda _: hover(browser, place, 15))
    elif part == "visitors":
        log.samples(part, few, lambda _: visitors(browser, place, 6))
    elif part == "gallery":
        log.samples(part, 1, lambda _: gallery(browser, place, 20))
    else:
        log.samples(part, 1, lambda _: soak(served, browser, options.people, options.minutes))


if __name__ == "__main__":
    main()
