"""The report: one file that shows a recorded run offline and reacts, in both languages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import saa_core as saa
from benchmarks.page.browser import ARGUMENTS, CHROMIUM
from benchmarks.synthetic import synthetic
from saa_core.cli.main import main
from saa_core.report import report, write_report
from saa_core.report.maps import embed_json
from saa_core.report.sentences import LANGUAGES, sentences

HOSTILE = (
    "</script><script>document.title='x'</script><img src=https://example.org/x onerror=alert(1)>"
)
GUARD = (
    {"layer": 2, "suspected": "missed", "measured": 0.21, "after": 0.02, "done": "added"},
    {"suspected": "result", "estimate": 0.02, "bound": 0.043, "limit": 0.05},
)


@contextmanager
def opened(file: Path, **options: object) -> Iterator:
    """The file in Chromium with the network off; it must ask for nothing and break nowhere."""
    if not CHROMIUM.exists():
        if os.environ.get("SAA_REQUIRE_BROWSER") == "1":
            pytest.fail(f"SAA_REQUIRE_BROWSER=1, and {CHROMIUM} does not exist")
        pytest.skip(f"{CHROMIUM} does not exist")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, **options)
        page.context.set_offline(True)
        asked, broken = list[str](), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.on("console", lambda line: broken.append(line.text) if line.type == "error" else None)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        browser.close()
    assert asked == [file.as_uri()]
    assert broken == []


def chosen(page, layer: int, head: int, q: int, k: int) -> str:
    """What is said about a pair once it is drawn."""
    page.wait_for_selector(f'html[data-ready="{layer},{head},{q},{k}"]')
    return page.locator(".pair").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("kind", ["pairs", "blocks", "dense"])
def test_the_file_shows_every_decision_of_the_trace_offline(
    tmp_path: Path, language: str, kind: str, smollm2: saa.Model
) -> None:
    trace = replace(synthetic(3, tokens=30), events=GUARD)
    if kind == "blocks":
        policy = saa.Policy(mass=0.8, granularity="block", sink=2, local=4)
        trace = saa.run(
            smollm2, "The ferry leaves at nine. If the sea is calm, it is fast. " * 6, policy
        )
    elif kind == "dense":
        trace = synthetic(3, tokens=30, policy=None)
    file = write_report(trace, tmp_path / "r.html", language=language, name="run 1")
    words = {lang: sentences("saa_core.report", lang) for lang in LANGUAGES}
    with opened(file) as page:
        assert f"{100 * trace.sparsity:.1f} %" in page.locator("table").first.inner_text()
        layer, head, heads = 3, 2, trace.shape[1]
        page.locator(".grid button").nth(layer * heads + head).click()
        n = trace.keys
        chosen(page, layer, head, n - 1, 0)
        reasons = trace.reason_map(layer, head)
        size = page.locator(".map").bounding_box()["width"]
        seen = set()
        for q, k in ((n - 1, 0), (n // 2, 3), (5, 5), (4, n - 2), (n - 2, n // 3)):
            place = {"x": (k + 0.5) / n * size, "y": (q + 0.5) / n * size}
            page.locator(".map").click(position=place)
            said = chosen(page, layer, head, q, k)
            reason = saa.REASONS[reasons[q, k]]
            assert said.endswith(words[language]["reasons"][reason.replace(" ", "_")])
            seen.add(reason)
        assert len(seen) > 1
        page.locator(".map").press("ArrowUp")
        assert f" {n - 3}" in chosen(page, layer, head, n - 3, n // 3)
        page.locator(".strip button").nth(7).click()
        chosen(page, layer, head, 7, min(n // 3, 7))
        read = page.locator(".strip button.read").count()
        assert read == trace.keep_map(layer, head)[7].sum()
        inked = page.evaluate(
            "() => { const c = document.querySelector('.map'); const d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; let n = 0;"
            "for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (d.length / 4); }"
        )
        assert 0.4 < inked < 0.65, "the lower triangle is drawn"
        if kind == "pairs":
            guard = page.locator(".events").inner_text()
            assert "21.0 %" in guard
            assert "4.3 %" in guard


@pytest.mark.browser
def test_hostile_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    trace = synthetic(1, text=HOSTILE)
    trace = replace(trace, tokens=(HOSTILE,) * trace.keys, model=replace(trace.model, name=HOSTILE))
    trace = replace(trace, events=({"suspected": HOSTILE, "done": HOSTILE},))
    file = write_report(trace, tmp_path / "r.html", name=HOSTILE)
    with opened(file, color_scheme="dark") as page:
        assert page.title().startswith("SAA report")
        assert page.locator(".strip button").first.inner_text() == HOSTILE
        assert page.locator("img").count() == 0


def test_an_untrained_gate_is_said_loudly_and_a_summary_has_no_map() -> None:
    trace = synthetic(1)
    loud = report(replace(trace, model=replace(trace.model, trained=False)))
    assert "UNTRAINED" in loud
    assert "UNTRAINED" not in report(trace).split('id="data"')[0]
    assert "<canvas" in report(trace)
    assert "<canvas" not in report(replace(trace, layers=None))
    with pytest.raises(saa.TraceError, match="choose one of: en, ja"):
        report(trace, language="fr")


def test_languages_have_the_same_words() -> None:
    words = {lang: sentences("saa_core.report", lang) for lang in LANGUAGES}
    assert words["en"].keys() == words["ja"].keys()
    for table in ("events", "script", "reasons"):
        assert words["en"][table].keys() == words["ja"][table].keys()
    assert {reason.replace(" ", "_") for reason in saa.REASONS} == set(words["en"]["reasons"])


def test_the_command_takes_a_file_or_an_id(tmp_path: Path, capsys) -> None:
    store = saa.Store(tmp_path / "store")
    run = store.add(synthetic(1))
    for given in (run, str(store.path(run))):
        out = tmp_path / "out.html"
        arguments = ["report", given, "-o", str(out), "--language", "ja"]
        assert main([*arguments, "--store", str(store.folder)]) == 0
        assert "SAA レポート" in out.read_text("utf-8")
        out.unlink()
    assert main(["report", "nothing", "-o", "x.html", "--store", str(store.folder)]) == 1
    assert "is not in the store" in capsys.readouterr().err


def test_what_is_embedded_is_valid_json() -> None:
    assert ">[null, 0.5]</script>" in embed_json("x", [float("nan"), 0.5])
