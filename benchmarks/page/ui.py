"""How fast the app answers in Chromium, and how much memory its sessions take.

    python -m benchmarks.page.ui                 # writes benchmarks/results/ui.json

Starts the app on a free loopback port. "run": a text of about 110 tokens, another in each fresh page,
warm model; from the click on Run until the first figures, all four, both continuations, and the
page at rest. "map": opens a recorded trace (4,096 tokens by default) and clicks at places spread
over the map, until the new window is drawn. "pages": with a run on the page, from the click on a page's name in
the navigation until its title, and until all of it is drawn. The clock runs in the page, from the pointer going
down. "sessions": pages that stay open, each with a run of its own; the growth of the server's memory.
"""

import argparse
import json
import random
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

import saa_core as saa
from benchmarks.page.browser import ARGUMENTS, CHROMIUM, ROOT, serve, settle
from saa_core.data import fetch
from saa_core.files import write_json
from saa_core.types import quartiles

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("run", "map", "pages", "sessions")
WATCH = """(canvas, [query, key, near]) => {
  // The window names its first query and key; only the one that was clicked for is the answer.
  const there = () => [...document.querySelectorAll('[class*="st-key-window-"]')].some((box) => {
    const found = box.className.match(/st-key-window-\\d+-(\\d+)-(\\d+)-/);
    return found && Math.abs(found[1] - query) <= near && Math.abs(found[2] - key) <= near
      && box.querySelector('canvas, svg');
  });
  window.answered = null;
  canvas.addEventListener('pointerdown', () => {
    const start = performance.now();
    const look = () => {
      if (!there()) return requestAnimationFrame(look);
      // Two frames on, what was drawn is on the screen.
      requestAnimationFrame(() => requestAnimationFrame(() => {
        window.answered = performance.now() - start;
      }));
    };
    look();
  }, { once: true, capture: true });
}"""


FIGURES = """(button, ends) => {
  const values = () => [...document.querySelectorAll('[data-testid="stMetricValue"]')]
    .map((value) => value.innerText.trim());
  const rest = () => document.querySelector(
    '[data-testid="stApp"][data-test-script-state="notRunning"]');
  const stages = {
    first: () => document.querySelector('#verdict') && values().length >= 3,
    all: () => values().length >= 3 && !values().includes('…'),
    written: () => ends.some((end) => document.body.innerText.includes(end)),
    rest: () => rest() && document.querySelector('#continuations'),
  };
  window.reached = {};
  button.addEventListener('pointerdown', () => {
    const start = performance.now();
    const look = () => {
      for (const [name, reached] of Object.entries(stages)) {
        if (reached()) { window.reached[name] = performance.now() - start; delete stages[name]; }
        else return requestAnimationFrame(look);
      }
    };
    look();
  }, { once: true, capture: true });
}"""


def record(tokens: int, folder: Path) -> Path:
    """A real run of SmolLM2 on a novel, in blocks."""
    model = saa.load("smollm2", device="cpu")
    text = (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
    offsets = model.tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(offsets) < tokens:
        text = text * (tokens // len(offsets) + 1)
        offsets = model.tokenizer(text, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
    policy = saa.Policy(granularity="block")
    return saa.run(model, text[: offsets[tokens - 1][1]], policy).save(folder / "long.saa")


def click_times(page: Page, clicks: int, tokens: int, window: int) -> list[float]:
    """ms from each click in the overview to the redrawn window."""
    draw = random.Random(0)
    canvas = page.locator("canvas[role=application]")
    samples = []
    for _ in range(clicks):
        settle(page)
        page.wait_for_timeout(300)  # the page before is at rest
        area = canvas.bounding_box()
        assert area is not None
        down = draw.uniform(0.15, 0.95)
        across = draw.uniform(0.05, down)
        place = {"x": across * area["width"], "y": down * area["height"]}
        # Where the window will start, and how many tokens a pixel is off.
        first = [
            min(max(0, int(x * tokens) - window // 2), tokens - window) for x in (down, across)
        ]
        canvas.evaluate(WATCH, [*first, 3 * tokens / area["width"]])
        canvas.click(position=place, force=True)
        page.wait_for_function("() => window.answered")
        samples.append(float(page.evaluate("() => window.answered")))
    return samples


def answer(
    browser: Browser, address: str, trace: Path, tokens: int, window: int, clicks: int
) -> dict[str, Any]:
    """Opens the trace in a page of its own and times clicks at one window size."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"{address}/gate_map?lang=en&window={window}")
    page.locator('input[type="file"][accept*=".saa"]').set_input_files(trace)
    page.locator("canvas[role=application]").wait_for()
    click_times(page, 2, tokens, window)  # the first ones load code
    samples = click_times(page, clicks, tokens, window)
    page.close()
    low, middle, high = quartiles(samples)
    print(f"{tokens} tokens, window of {window}: median {middle:.0f} ms ({low:.0f} to {high:.0f})")
    return {
        "what": "click in the overview to redrawn window, ms",
        "tokens": tokens,
        "window": window,
        "median_ms": middle,
        "quartiles_ms": [low, high],
        "samples_ms": samples,
    }


def texts(count: int, tokens: int) -> list[str]:
    """Different excerpts of a novel, of about so many tokens of SmolLM2."""
    novel = (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
    words = " ".join(novel.split()).split(" ")
    share = int(tokens / 1.3)
    return [" ".join(words[at * share : (at + 1) * share]) for at in range(1, count + 1)]


def run_times(browser: Browser, address: str, pages: int) -> dict[str, Any]:
    """ms from the click on Run, each in a fresh page and with another text; the first warms up."""
    found: dict[str, list[float]] = {"first": [], "all": [], "written": [], "rest": []}
    words = tomllib.loads((ROOT / "app" / "text" / "en.toml").read_text(encoding="utf-8"))
    ends = [words["continue"][key] for key in ("same", "differs")]
    for turn, text in enumerate(texts(pages + 1, 105)):
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(f"{address}/?lang=en")
        settle(page)
        page.get_by_label("Your text").fill(text)
        button = page.get_by_role("button", name="Run", exact=True)
        page.wait_for_timeout(500)
        button.evaluate(FIGURES, ends)
        button.click()
        page.wait_for_function("() => window.reached && window.reached.rest")
        if turn:
            for name, values in found.items():
                values.append(float(page.evaluate(f"() => window.reached.{name}")))
        page.close()
    medians = {name: quartiles(values)[1] for name, values in found.items()}
    print("click on Run to " + ", ".join(f"{name}: {ms:.0f} ms" for name, ms in medians.items()))
    return {
        "what": "click on Run to first figures, all four, both continuations, page at rest, ms",
        "tokens": 105,
        "median_ms": medians,
        "samples_ms": found,
    }


SWITCHED = """(link, title) => {
  const app = () => document.querySelector('[data-testid="stApp"]');
  const there = () => [...document.querySelectorAll('h1')].some(
    (heading) => heading.innerText.trim() === title && !heading.closest('[data-stale=true]'));
  const rest = () => app().dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-stale=true], [data-testid=stSkeleton]');
  const stages = [['title', there], ['rest', rest]];
  window.reached = {};
  link.addEventListener('pointerdown', () => {
    const start = performance.now();
    const look = () => {
      while (stages.length && stages[0][1]()) {
        window.reached[stages.shift()[0]] = performance.now() - start;
      }
      if (stages.length) requestAnimationFrame(look);
    };
    look();
  }, { once: true, capture: true });
}"""


def switch_times(browser: Browser, address: str, rounds: int) -> list[dict[str, Any]]:
    """ms from the click on each page's name until its title and until all of it is there, with a run open."""
    words = tomllib.loads((ROOT / "app" / "text" / "en.toml").read_text(encoding="utf-8"))
    names = [name for name in words["page"] if name != "explore"]
    found: dict[str, dict[str, list[float]]] = {
        name: {"title": [], "rest": []} for name in (*names, "explore")
    }
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"{address}/?lang=en&example=story")
    page.locator("#continuations").wait_for(state="attached")
    settle(page)
    for turn in range(rounds + 1):
        for name, stages in found.items():
            title = words["app"]["title"] if name == "explore" else words["page"][name]
            link = page.get_by_role("link", name=words["page"][name], exact=True)
            page.wait_for_timeout(700)  # the page before is at rest
            link.evaluate(SWITCHED, title)
            link.click()
            page.wait_for_function("() => window.reached && window.reached.rest")
            if turn:
                for stage, samples in stages.items():
                    samples.append(float(page.evaluate(f"() => window.reached.{stage}")))
    page.close()
    rows = []
    for name, stages in found.items():
        medians = {stage: quartiles(samples)[1] for stage, samples in stages.items()}
        print(f"{name}: title {medians['title']:.0f} ms, all of it {medians['rest']:.0f} ms")
        rows.append({"page": name, "median_ms": medians, "samples_ms": stages})
    return rows


def resident_mib(pid: int) -> float:
    """Resident memory of a process and its children, MiB; of Linux."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(status.split("VmRSS:")[1].split()[0]) / 1024
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident_mib(int(child)) for child in children)


def session_memory(browser: Browser, address: str, pid: int, sessions: int) -> dict[str, Any]:
    """The server's memory with more and more pages open, each with a run of a text of its own."""
    words = tomllib.loads((ROOT / "app" / "text" / "en.toml").read_text(encoding="utf-8"))
    samples = []
    for turn, text in enumerate(texts(sessions + 1, 105)):  # the first loads the model and stays
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(f"{address}/?lang=en")
        settle(page)
        page.get_by_label(words["explore"]["text"]).fill(text)
        page.get_by_role("button", name="Run", exact=True).click()
        page.locator("#continuations").wait_for(state="attached")
        page.get_by_role("link", name=words["page"]["gate_map"], exact=True).click()
        page.locator("canvas[role=application]").wait_for()
        settle(page)
        samples.append(resident_mib(pid))
        print(f"{turn} sessions more: {samples[-1]:.0f} MiB")
    growth = (samples[-1] - samples[0]) / sessions
    print(f"each session takes {growth:.1f} MiB")
    return {
        "what": "resident memory of the server with 1, 2, ... open sessions, each with a run, MiB",
        "sessions": sessions,
        "tokens": 105,
        "growth_mib_each": growth,
        "samples_mib": samples,
    }


def click_rows(
    browser: Browser, address: str, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    trace = options.trace or record(options.tokens, folder)
    return [
        answer(browser, address, trace, options.tokens, window, options.clicks)
        for window in options.windows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--tokens", type=int, default=4096, help="of the trace behind the map")
    parser.add_argument("--trace", type=Path, help="a recorded trace to open instead of a new one")
    parser.add_argument("--windows", type=int, nargs="+", default=[32, 64], choices=(16, 32, 64))
    parser.add_argument("--clicks", type=int, default=25)
    parser.add_argument("--pages", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=7, help="of visits to every page")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "ui.json")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with serve(folder / "log") as (address, pid), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            parts: dict[str, tuple[str, Callable[[], Any]]] = {
                "run": ("run", lambda: run_times(browser, address, options.pages)),
                "map": ("gate_map_click", lambda: click_rows(browser, address, folder, options)),
                "pages": ("page_switch", lambda: switch_times(browser, address, options.rounds)),
                "sessions": (
                    "sessions",
                    lambda: session_memory(browser, address, pid, options.sessions),
                ),
            }
            for part in options.what:
                name, measure = parts[part]
                found[name] = measure()
                write_json(options.out, found)
            browser.close()


if __name__ == "__main__":
    main()
