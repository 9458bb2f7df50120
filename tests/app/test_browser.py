"""The whole app in Chromium, with every request to the outside blocked and counted.

Skipped where there is no Chromium, unless SAA_REQUIRE_BROWSER=1. Takes a screenshot of the documentation.
"""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from app import text
from app.components.tour.steps import STEPS
from app.state.stories import stories
from benchmarks.page.browser import settle
from benchmarks.synthetic import synthetic
from saa_core.audit.figures import audits
from saa_core.certify.slices import rare_texts
from saa_core.cli.main import main
from saa_core.store import Store
from tests.app.visitor import SCREENSHOTS, box, chart, click, visit

ROOT = Path(__file__).parents[2]
EXPLORE_SCREENSHOT = ROOT / "docs" / "images" / "explore.png"
MAP_SCREENSHOT = ROOT / "docs" / "images" / "gate_map.png"
LATENCY_SCREENSHOT = ROOT / "docs" / "images" / "latency.png"
COMPARE_SCREENSHOT = ROOT / "docs" / "images" / "compare.png"
COST_SCREENSHOT = ROOT / "docs" / "images" / "cost.png"
DATASET_SCREENSHOT = ROOT / "docs" / "images" / "dataset.png"
TRACES_SCREENSHOT = ROOT / "docs" / "images" / "traces.png"
PRESENT_SCREENSHOT = ROOT / "docs" / "images" / "present.png"
TASK_SCREENSHOT = ROOT / "docs" / "images" / "task.png"
TRUST_SCREENSHOT = ROOT / "docs" / "images" / "trust.png"
TEXT = (
    "When the museum reopened in April, the first visitor was a retired engineer who had repaired "
    "its great clock forty years earlier. He walked straight to the clock, listened for a minute, "
    "and told the guard that the clock was"
)

WRITTEN = dict(enumerate(["no", "one", "two", "three", "four", "five", "six", "seven"]))

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]


def whole_page(page, file: Path, drawn: str = "canvas[role=application]") -> None:
    """The page in full height, so that nothing is cut off."""
    file.parent.mkdir(parents=True, exist_ok=True)
    size = dict(page.viewport_size)
    tall = page.evaluate(
        "document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight"
    )
    page.set_viewport_size({**size, "height": tall})
    page.locator(drawn).first.wait_for()
    settle(page)
    page.evaluate("() => new Promise((done) => setTimeout(done, 1000))")  # charts draw anew
    page.screenshot(path=file)
    page.set_viewport_size(size)


def test_a_first_timer_understands_one_decision_in_as_many_clicks_as_the_readme_says(
    address: str,
) -> None:
    """The path under "Your first decision"; then on by drag and by key, and back as browsers go back."""
    clicks = 0

    def choose(place: Locator, at: tuple[float, float] = (0.5, 0.5)) -> None:
        nonlocal clicks
        clicks += 1
        click(place, *at)

    with visit(address) as page:
        choose(page.get_by_role("button", name="A short story"))
        page.locator(".st-key-inspector").wait_for()
        page.locator("#continuations").wait_for(state="attached")
        settle(page)
        assert "word pairs were found unnecessary" in page.locator("#verdict").inner_text()
        before = page.locator(".st-key-inspector").inner_text()
        choose(chart(page, 1), (0.35, 0.7))
        page.wait_for_function(
            "(text) => document.querySelector('.st-key-inspector').innerText !== text", arg=before
        )
        settle(page)
        why = page.locator(".st-key-inspector").inner_text()
        assert re.search(r"It expects|The gate expects|Always kept|Not allowed", why)
        choose(page.get_by_text("Open the gate map"))
        page.locator(".st-key-details").wait_for()
        settle(page)
        turned = r"kept for every mass above 0\.\d+|mass were above 0\.\d+"
        assert re.search(turned, page.locator(".st-key-details").inner_text())
        choose(page.get_by_role("button", name="Take the score apart"))
        page.locator('[data-testid="stMetricValue"]').nth(5).wait_for()
        settle(page)
        tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
        assert f"## Your first decision, in {WRITTEN[clicks]} clicks" in tour

        settled = [page.url]
        overview = page.locator("canvas[role=application]")
        overview.scroll_into_view_if_needed()
        area = overview.bounding_box()
        across, down = ((area["x"], area["width"]), (area["y"], area["height"]))
        page.mouse.move(*(start + 0.2 * size for start, size in (across, down)))
        page.mouse.down()
        page.mouse.move(across[0] + 0.3 * across[1], down[0] + 0.8 * down[1], steps=5)
        page.mouse.up()
        tokens = int(re.search(r"Query token \(0.(\d+)\)", page.content())[1]) + 1
        page.wait_for_function("(q) => location.search.includes(`q=${q}&`)", arg=int(0.8 * tokens))
        settle(page)
        settled.append(page.url)
        overview.focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("(url) => location.href !== url", arg=settled[-1])
        settle(page)
        for earlier in reversed(settled):  # each move is one step back
            page.go_back()
            page.wait_for_function("(url) => location.href === url", arg=earlier)
            settle(page)
            for name in ("Query", "Key"):
                at = re.search(rf"[?&]{name[0].lower()}=(\d+)", earlier)[1]
                expect(box(page, f"{name} token")).to_have_value(at)  # the script may start late
        title = page.get_by_role("heading", level=1, name="Sparse Adaptive Attention")
        for _ in range(2):  # going to another page is two steps: the bare page, then what it shows
            page.go_back()
            settle(page)
        title.wait_for()
        page.locator(".st-key-inspector").wait_for()
        assert page.locator('[data-testid="stException"]').count() == 0


def pair_of(link: str) -> tuple[str, str]:
    """Positions of query and key in an address."""
    values = dict(part.split("=", 1) for part in link.partition("?")[2].split("&"))
    return values["q"], values["k"]


def test_type_a_text_read_the_figures_and_follow_a_pair(address: str) -> None:
    with visit(address) as page:
        page.get_by_label("Your text").fill(TEXT)
        page.get_by_role("button", name="Run", exact=True).click()
        page.locator("#verdict").wait_for()
        figures = page.locator('[data-testid="stMetricValue"]')
        figures.nth(2).wait_for()
        settle(page)
        values = [figures.nth(at).inner_text() for at in range(3)]
        assert [bool(re.fullmatch(r"\d+\.\d\s%", value)) for value in values[:2]] == [True] * 2
        assert values[2] == "too short to tell"
        verdict = page.locator("#verdict").inner_text()
        assert re.search(r"word pairs were|Every word pair", verdict)
        whole_page(page, EXPLORE_SCREENSHOT)

        inspector = page.locator(".st-key-inspector")
        before = inspector.inner_text()
        click(chart(page, 1), 0.35, 0.7)
        page.wait_for_function(
            "(text) => document.querySelector('.st-key-inspector').innerText !== text", arg=before
        )
        settle(page)
        chosen = inspector.inner_text()
        q, k = box(page, "Query token").input_value(), box(page, "Key token").input_value()
        assert f"(position {q})" in chosen
        assert f"(position {k})" in chosen
        assert (q, k) == pair_of(page.url)

        link = page.url
        page.goto(link)
        page.locator(".st-key-inspector").wait_for()
        settle(page)
        assert page.locator(".st-key-inspector").inner_text() == chosen
        expect(page.get_by_label("Your text")).to_have_value(TEXT)

        page.locator(".strip button").nth(7).click()
        page.wait_for_function("location.search.includes('q=7&')")
        settle(page)
        expect(box(page, "Query token")).to_have_value("7")

        click(page.locator("canvas[role=application]"), 0.1, 0.9)
        page.wait_for_function("!location.search.includes('q=7&')")
        settle(page)
        tokens = page.locator(".strip button").count()
        assert abs(int(box(page, "Query token").input_value()) - 0.9 * tokens) <= 1
        assert abs(int(box(page, "Key token").input_value()) - 0.1 * tokens) <= 1

        layer = box(page, "Layer").input_value()
        click(chart(page, 0), 0.7, 0.25)
        page.wait_for_function(f"!location.search.includes('layer={layer}&')")
        settle(page)
        assert box(page, "Layer").input_value() != layer


def test_the_gate_map_opens_at_the_same_pair_in_another_browser(address: str) -> None:
    with visit(address, "/?lang=en&example=story&layer=4&head=2&q=80&k=20") as page:
        page.get_by_text("Open the gate map").click()
        page.locator(".st-key-details").wait_for()
        settle(page)
        assert "mass were above" in page.locator(".st-key-details").inner_text()
        page.get_by_role("button", name="Take the score apart").click()
        page.locator('[data-testid="stMetricValue"]').nth(5).wait_for()
        settle(page)
        whole_page(page, MAP_SCREENSHOT)

        click(page.locator("canvas[role=application]"), 0.4, 0.7)
        page.wait_for_function("!location.search.includes('q=80&')")
        settle(page)
        link = page.url
        q, k = pair_of(link)
        inspector = inspected(page, q, k)
        details = unfolded(page)
    with visit(address, link.removeprefix(address)) as page:
        page.locator(".st-key-details").wait_for()
        settle(page)
        assert inspected(page, q, k) == inspector
        assert unfolded(page) == details


def test_the_latency_page_finds_a_setting_and_uses_it(address: str) -> None:
    with visit(address, "/latency?lang=en&example=story") as page:
        page.get_by_role("button", name="Try nine settings").click()
        use = page.get_by_role("button", name=re.compile("^Use 0"))
        use.wait_for()
        settle(page)
        chart(page, 2).wait_for()
        assert "from about" in page.locator("[data-testid=stMain]").inner_text()
        whole_page(page, LATENCY_SCREENSHOT, '[data-testid="stVegaLiteChart"] :is(canvas, svg)')
        mass = use.inner_text().split()[1]
        use.click()
        share = page.get_by_test_id("stSliderThumbValue").first
        expect(share).to_have_text(mass)  # a page that is left at once loses the click
        settle(page)
        page.get_by_role("link", name="Explore", exact=True).click()
        page.get_by_text("The settings have changed").wait_for()
        expect(share).to_have_text(mass)


@pytest.mark.parametrize(
    ("lang", "scheme", "width"),
    [("en", "light", 1440), pytest.param("ja", "dark", 390, marks=pytest.mark.long)],
)
def test_the_trust_page_shows_what_a_broken_gate_does_with_and_without_a_guard(
    address: str, lang: str, scheme: str, width: int
) -> None:
    size = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with visit(address, f"/trust?lang={lang}&example=story", **size) as page:
        page.locator(".st-key-damage button").nth(4).click()  # negated
        page.get_by_text("sign turned" if lang == "en" else "符号を反転").wait_for()
        page.locator(".st-key-try button").click()
        page.locator("#verdict").wait_for()
        settle(page)
        values = page.locator('[data-testid="stMetricValue"]')
        values.nth(7).wait_for()
        missed = [float(values.nth(at).inner_text().split()[0]) for at in (0, 4)]
        assert missed[0] > 5 >= missed[1]
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        drawn = '[data-testid="stVegaLiteChart"] :is(canvas, svg)'
        name = TRUST_SCREENSHOT if lang == "en" else SCREENSHOTS / "trust-ja-390.png"
        whole_page(page, name, drawn)


def inspected(page, q: str, k: str) -> str:
    """What the inspector says, once the browser has drawn this pair in it and in the selectors."""
    text = page.locator(".st-key-inspector")
    for position in (q, k):
        text.get_by_text(f"(position {position})").first.wait_for()
    page.wait_for_timeout(300)  # the parts below the sentence are drawn just after it
    assert (box(page, "Query token").input_value(), box(page, "Key token").input_value()) == (q, k)
    return text.inner_text()


def unfolded(page) -> str:
    """What the details say before the score is taken apart, once they are all drawn."""
    page.get_by_role("button", name="Take the score apart").wait_for()
    return page.locator(".st-key-details").inner_text().split("Take")[0].strip()


@pytest.mark.parametrize(
    ("name", "lang", "scheme", "width"),
    [
        pytest.param("dark-en-1440", "en", "dark", 1440, marks=pytest.mark.long),
        pytest.param("light-ja-1440", "ja", "light", 1440, marks=pytest.mark.long),
        pytest.param("light-en-390", "en", "light", 390, marks=pytest.mark.long),
        ("dark-ja-390", "ja", "dark", 390),
    ],
)
def test_other_themes_sizes_and_languages_hold_every_part(
    address: str, name: str, lang: str, scheme: str, width: int
) -> None:
    size = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with visit(address, f"/?lang={lang}&example=story", **size) as page:
        page.locator(".st-key-inspector").wait_for()
        settle(page)
        figures = page.locator('[data-testid="stMetricValue"]')
        figures.nth(2).wait_for()  # Streamlit loads the code that draws them when it needs it
        assert [figures.nth(at).is_visible() for at in range(3)] == [True] * 3
        assert page.locator("canvas[role=application]").bounding_box()["width"] <= width
        sideways = "document.documentElement.scrollWidth <= window.innerWidth"
        assert page.evaluate(sideways)
        whole_page(page, SCREENSHOTS / f"{name}.png")


def test_a_task_shows_its_labels_and_crosses_out_tokens(address: str) -> None:
    with visit(address, "/?lang=en&model=minilm+%2B+sentences&example=bakery") as page:
        page.get_by_role("heading", name="Tokens crossed out, layer by layer").wait_for()
        settle(page)
        assert "of the work was left out" in page.locator("#verdict").inner_text()
        slider = page.get_by_role("slider", name="Layer")
        crossed = page.locator(".player .gone, .player .going")
        most = crossed.count()
        assert most > 0
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        page.get_by_text("Layer 0:").wait_for()
        assert crossed.count() == 0, "the first layer computes every token"
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.get_by_text("Layer 3:").wait_for()
        assert crossed.count() > 0
        slider.press("Home")
        page.get_by_role("button", name="Play the layers").press("Enter")
        page.get_by_text("Layer 5:").wait_for()  # each layer has had its turn
        assert crossed.count() >= most
        whole_page(page, TASK_SCREENSHOT)
        page.reload()
        page.get_by_role("heading", name="Tokens crossed out, layer by layer").wait_for()
        sidebar = page.locator("section[data-testid=stSidebar]")
        sidebar.get_by_text("Share of the token work to do").first.wait_for()
        assert "Share of the token work to do" in sidebar.inner_text(), "the address knows the task"


@pytest.mark.parametrize(
    ("lang", "scheme", "width"),
    [("en", "light", 1440), pytest.param("ja", "dark", 390, marks=pytest.mark.long)],
)
def test_the_first_page_tells_its_stories_and_the_tour_is_finished_by_keyboard(
    address: str, lang: str, scheme: str, width: int
) -> None:
    words = text.load(lang)
    size = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with visit(address, f"/?lang={lang}", **size) as page:
        for story in stories(lang):
            page.locator(f".st-key-story-{story.id}").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.get_by_role("link", name=words("story.tour", steps=len(STEPS))).press("Enter")
        for step in STEPS[:-2]:
            page.get_by_role("heading", name=words(f"tour.{step}_title")).wait_for()
            settle(page)
            page.keyboard.press("PageDown")
        page.get_by_role("heading", name=words("tour.keep_title")).wait_for()
        settle(page)
        page.locator(".st-key-tour_keep button").press("Enter")
        page.get_by_role("heading", name=words("tour.back_title")).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_changed_word_is_followed_to_the_decisions_that_turned_over(address: str) -> None:
    with visit(address, "/compare?lang=en") as page:
        page.get_by_role("button", name="Change one word").click()
        page.get_by_role("heading", name="Decisions that turned over").wait_for()
        settle(page)
        page.locator("mark").nth(1).wait_for()
        assert page.locator("mark").all_inner_texts() == [" calm,", " rough,"]
        chart(page, 3).wait_for()
        whole_page(page, COMPARE_SCREENSHOT)
        click(page.locator("canvas[role=application]"), 0.3, 0.8)
        page.wait_for_function("/[?&]q=(3[2-9]|4)/.test(location.search)")
        settle(page)
        strip = page.get_by_role("listbox", name="Tokens of text B; arrow keys move")
        strip.get_by_role("option").nth(12).click()
        page.wait_for_function("location.search.includes('q=12&')")
        settle(page)
        for side in "ab":
            page.locator(f".st-key-inspector-{side}").get_by_text("(position 12)").first.wait_for()
        link, verdict = page.url, page.locator("#verdict").inner_text()
    with visit(address, link.removeprefix(address)) as page:
        page.locator(".st-key-inspector-b").get_by_text("(position 12)").first.wait_for()
        settle(page)
        assert page.locator("#verdict").inner_text() == verdict
        assert page.get_by_label("Text B: change words in it").input_value().count("rough") == 1


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.long), 390])
def test_a_comparison_in_japanese_holds_every_part(address: str, width: int) -> None:
    size = {"viewport": {"width": width, "height": 900}, "color_scheme": "dark"}
    with visit(address, "/compare?lang=ja&example=story&b_how=saa&b_mass=0.8", **size) as page:
        page.get_by_role("heading", name="覆った判断").wait_for()
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        whole_page(page, SCREENSHOTS / f"compare-ja-{width}.png")


def test_the_cost_page_is_changed_linked_and_printed(address: str) -> None:
    with visit(address, "/cost?lang=en&model=smollm2") as page:  # with short texts, which lose
        page.get_by_text("SAA saves").first.wait_for()
        settle(page)
        drawn = '[data-testid="stVegaLiteChart"] :is(canvas, svg)'
        whole_page(page, COST_SCREENSHOT, drawn)
        page.get_by_role("spinbutton", name="Requests per day").fill("5000000")
        page.keyboard.press("Enter")
        page.wait_for_function("location.search.includes('c_requests=5000000')")
        page.get_by_role("radio", name="128", exact=True).click()
        page.get_by_text("SAA saves nothing: it is slower than dense").wait_for()
        settle(page)
        link, verdict = page.url, page.locator("#verdict").inner_text()
        page.emulate_media(media="print")
        assert not page.locator("section[data-testid=stSidebar]").is_visible()
        assert page.locator("#verdict").is_visible()
        printed = page.pdf(prefer_css_page_size=True)
        assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 3
    with visit(address, link.removeprefix(address)) as page:
        page.get_by_text("SAA saves nothing: it is slower than dense").wait_for()
        assert page.locator("#verdict").inner_text() == verdict


def test_a_person_overrules_the_gate_and_cancels_a_ranking(address: str) -> None:
    link = "/gate_map?lang=en&example=story&layer=4&head=2&q=80&k=20"
    with visit(address, link) as page:
        page.get_by_role("button", name="Keep", exact=True).click()
        page.get_by_text("kept by you").wait_for()
        settle(page)
        assert "force=%2BL4.H2.Q80.K20" in page.url
        assert "Kept, because a person asked for it" in inspected(page, "80", "20")
        page.get_by_role("button", name="Rank the blocks of layer 4").click()
        page.get_by_text(re.compile("s left$")).wait_for()
        page.get_by_role("button", name=re.compile("^Cancel")).click()
        page.get_by_text(re.compile("^Not finished: ")).wait_for()
        settle(page)
        shown = page.get_by_text(re.compile("^Not finished: ")).inner_text()
        done, total = (int(number) for number in re.findall(r"\d+", shown))
        assert 0 < done < total
        page.get_by_role("button", name="Take all back").click()
        page.wait_for_function("!location.search.includes('force=')")


def test_a_kept_run_is_found_and_opens_from_its_link(address: str) -> None:
    with visit(address, "/?lang=en&example=story") as page:
        page.get_by_role("button", name="Keep this run").click()
        link = page.get_by_role("link", name="This link").get_attribute("href")
        page.get_by_role("link", name="Traces", exact=True).click()
        page.get_by_text("2 rows", exact=True).wait_for()
        page.get_by_role("textbox", name="Search").fill("no text has these words")
        page.keyboard.press("Enter")
        page.get_by_text("0 rows", exact=True).wait_for()
        page.get_by_role("textbox", name="Search").fill("smollm2")
        page.keyboard.press("Enter")
        page.get_by_text("2 rows", exact=True).wait_for()
        settle(page)
        whole_page(page, TRACES_SCREENSHOT, '[data-testid="stDataFrame"] canvas')
    assert link
    with visit(address, link, served=True) as page:
        said = page.locator("p.pair")
        said.filter(has_text="position").wait_for()
        before = said.inner_text()
        page.locator("canvas.map").press("ArrowRight")
        said.filter(has_not_text=before).wait_for()
        page.get_by_role("link", name="Open in the explorer").click()
        page.get_by_text(re.compile("^Recorded run ")).wait_for()


def test_a_click_on_a_bar_of_an_audit_shows_its_texts(address: str, tmp_path: Path) -> None:
    file = tmp_path / "rare.jsonl"
    file.write_text(
        "".join(json.dumps({"text": rare.text}) + "\n" for rare in rare_texts()), "utf-8"
    )
    assert main(["audit", str(file), "--task", "sentences", "--cut"]) == 0
    total = audits(Store())[0].texts  # two of them are the same when they are cut
    with visit(address, "/dataset?lang=en") as page:
        page.get_by_text(f"{total} texts, worst first", exact=False).wait_for()
        settle(page)
        whole_page(page, DATASET_SCREENSHOT, '[data-testid="stDataFrame"] canvas')
        slices, spread = (page.get_by_test_id("stVegaLiteChart").nth(at) for at in (0, 1))
        bars = 'path[aria-roledescription="bar"]'
        spread.locator(bars).first.click()
        page.get_by_text(f"{total} texts, worst first", exact=False).wait_for(state="detached")
        slices.locator(bars).last.click()  # of a kind in which nothing moved
        page.wait_for_url(re.compile("slice=very"))


def test_a_presentation_steps_by_keyboard_and_is_saved_as_a_file(
    address: str, tmp_path: Path
) -> None:
    with visit(address, "/present?lang=en&deck=stakeholders&step=2") as page:
        page.get_by_text("Step 2 of ").wait_for()
        settle(page)
        first = page.locator("h2").first.inner_text()
        whole_page(page, PRESENT_SCREENSHOT)
        page.keyboard.press("PageDown")
        page.get_by_text("Step 3 of ").wait_for()
        settle(page)
        assert page.locator("h2").first.inner_text() != first
        assert "step=3" in page.url
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Save as one HTML file").click()
        waiting.value.save_as(tmp_path / "talk.html")
    assert first in (tmp_path / "talk.html").read_text("utf-8")


def test_a_view_is_taken_away_in_every_form_by_keyboard(address: str, tmp_path: Path) -> None:
    run = Store().add(synthetic(0, tokens=24))
    with visit(address, f"/?trace={run}&lang=ja") as page:
        control = page.locator(".st-key-export-map").get_by_role("button", name="ダウンロード")
        control.wait_for()
        settle(page)
        files = {}
        for at, kind in enumerate(("png", "svg", "json", "parquet")):
            control.focus()
            page.keyboard.press("Enter")
            button = page.locator(f".st-key-export-map-{kind} button")
            button.wait_for()
            with page.expect_download() as download:
                button.focus()
                page.keyboard.press("Enter")
            files[kind] = tmp_path / str(at)
            assert download.value.suggested_filename == f"saa-map-{run}.{kind}"
            download.value.save_as(files[kind])
            page.keyboard.press("Escape")
    assert Image.open(files["png"]).width > 1000
    assert ElementTree.parse(files["svg"]).getroot().tag.endswith("svg")
    found = json.loads(files["json"].read_text("utf-8"))
    assert found["from"]["run"] == run
    assert len(found["rows"]) == pq.read_table(files["parquet"]).num_rows == 24 * 25 // 2
