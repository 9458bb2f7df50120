"""README and docs are what they say: their Python and commands run, their links and figures hold."""

import re
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.page.animation import OUT as ANIMATION
from benchmarks.page.animation import film
from benchmarks.publish import publish
from benchmarks.publish.tables_peers import peers_line
from benchmarks.publish.tables_readme import headline_table
from saa_core.cli.main import main
from tests.seam.models import DECODERS, ENCODERS

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.ja.md")
DOCS = tuple(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))
DEMOS = ("docs/demo.html", "docs/demo.ja.html", "docs/demo-deck.html", "docs/demo-deck.ja.html")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(read(page)) if found == language]


def prose(page: str) -> str:
    return FENCE.sub("", read(page))


def links(page: str) -> Iterator[tuple[Path, str]]:
    """Files that a page names, and the heading within them, if any."""
    for target in LINK.findall(prose(page)):
        path, _, heading = target.partition("#")
        if not re.match(r"https?:", target):
            yield (ROOT / page).parent / path if path else ROOT / page, heading


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", READMES)
def test_it_is_one_page(page):
    assert len(read(page).splitlines()) <= 150


@pytest.mark.parametrize("page", READMES)
def test_it_opens_with_a_moving_picture_a_claim_and_two_commands(page):
    lines = [line for line in read(page).splitlines() if line.strip()]
    assert lines[1].endswith(f"]({ANIMATION.relative_to(ROOT)})")
    fence = lines.index("```sh")
    assert [line.split("#")[0].strip() for line in lines[fence : fence + 4]] == [
        "```sh",
        "make app",
        "make test",
        "```",
    ]
    assert fence < 14
    assert any(line.startswith("**") for line in lines[:fence])


@pytest.mark.parametrize("page", [*READMES, *DOCS])
def test_every_block_of_code_is_closed(page):
    assert "```" not in prose(page)


@pytest.mark.parametrize("page", [*READMES, *DOCS])
def test_pictures_and_links_exist(page):
    for target, heading in links(page):
        assert target.exists(), target
        if heading:
            assert heading in anchors(target), f"{target}#{heading}"


@pytest.mark.parametrize("page", READMES)
def test_every_page_is_reached(page):
    found, todo = set(), [ROOT / page]
    while todo:
        at = todo.pop().resolve()
        if at not in found and at.is_file():
            found.add(at)
            if at.suffix == ".md":
                todo += [target for target, _ in links(str(at.relative_to(ROOT)))]
    for wanted in (*DOCS, *DEMOS, *READMES):
        assert (ROOT / wanted).resolve() in found, wanted


@pytest.mark.parametrize("page", [*READMES, *DOCS])
def test_make_targets_exist(page):
    makefile = read("Makefile")
    for block in blocks(page, "sh"):
        for target in re.findall(r"^make (\w+)", block, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", [*READMES, *DOCS])
def test_benchmarks_that_are_named_exist(page):
    named = re.findall(r"python -m\s+(benchmarks(?:\.\w+)+)", read(page))
    for module in named:
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module
    assert not re.search(r"python benchmarks/", read(page)), "benchmarks run as modules"


def python_blocks() -> list[object]:
    return [
        pytest.param(code, id=f"{page}-{at}")
        for page in ("README.md", "docs/python.md")
        for at, code in enumerate(blocks(page, "python"))
    ]


def test_the_readmes_have_the_python_of_a_first_run():
    found = [code for page in READMES for code in blocks(page, "python")]
    assert len([line for line in found[0].splitlines() if line]) <= 8
    without_words = {re.sub(r"(f?)\"[^\"{]*(\{.*?\})?[^\"]*\"", r"\1\2", code) for code in found}
    assert (len(found), len(without_words)) == (2, 1), "the same program in both languages"
    assert len(blocks("docs/python.md", "python")) == 9


@pytest.mark.parametrize("code", python_blocks())
def test_python_runs(code, tmp_path, monkeypatch, capsys, smollm2):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_own_model_example_is_ten_lines():
    code = next(code for code in blocks("docs/python.md", "python") if "saa.attach" in code)
    statements = [
        line for line in code.splitlines() if line and not line.startswith((" ", "from", "import"))
    ]
    assert len(statements) <= 10
    for word in ("attach", "train_gates", "run", "detach"):
        assert f"saa.{word}(" in code


def commands() -> list[tuple[str, str]]:
    """(page, line) of every `saa` command in a shell block."""
    return [
        (page, line)
        for page in (*READMES, *(page for page in DOCS if page != "docs/cli.md"))
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("saa ")
    ]


def test_each_readme_has_four_commands():
    for page in READMES:
        assert len([line for at, line in commands() if at == page]) == 4


NO_MODEL = ("fetch", "present", "query", "report")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=() if line.split()[1] in NO_MODEL else pytest.mark.model)
        for line in sorted({line for _, line in commands()})
    ],
)
def test_commands_run(line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line)[1:]
    if "--lengths" in arguments:  # as written, but on a short text: the suite times nothing
        arguments[arguments.index("--lengths") + 1] = "64"
    demo = None
    if "-o" in arguments and arguments[arguments.index("-o") + 1].startswith("docs/"):
        at = arguments.index("-o") + 1
        demo, arguments[at] = ROOT / arguments[at], str(tmp_path / "demo.html")
    assert main(arguments) == 0
    assert capsys.readouterr().out
    if demo is not None:
        made = (tmp_path / "demo.html").read_text("utf-8")
        assert made == demo.read_text("utf-8"), f"{demo.name} is out of date; run: {line}"


def test_the_models_that_are_named_are_those_of_the_tests():
    listed = read("docs/python.md").split("## Which models")[1]
    tested = {*DECODERS, *ENCODERS}
    assert {name for name in tested if f"`{name}`" not in listed} == set()
    for readme in READMES:
        assert re.search(rf"{len(tested)} (model types|種類)", read(readme)), readme


def test_every_demo_has_its_command():
    made = {line.split(" -o ")[1] for _, line in commands() if " -o docs/" in line}
    assert made == set(DEMOS)


@pytest.mark.parametrize("demo", DEMOS)
def test_demos_are_one_small_file_that_asks_for_nothing(demo):
    text = read(demo)
    assert (ROOT / demo).stat().st_size < 1_500_000
    loads = re.findall(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=[\"']?([^\"'> ]+)", text)
    assert [target for target in loads if not target.startswith("data:")] == []
    assert not re.search(r"\b(?:fetch|importScripts|XMLHttpRequest|WebSocket)\b\s*\(", text)
    assert not re.search(r"@import|url\((?!data:)", text)


def test_the_report_of_the_demo_holds_what_was_recorded():
    trace = film().trace
    assert f"{100 * trace.sparsity:.1f} %" in read("docs/demo.html")
    allowed = int(trace.allowed_pairs.sum()) * trace.shape[1]
    assert f"{allowed:,} allowed pairs" in read("docs/demo.html")


def test_plain_lines_match_the_makefile():
    made, install = read("Makefile") + read("scripts/setup.py"), read("docs/install.md")
    for word in ("requirements.txt", "streamlit run app/main.py", "fetch smollm2"):
        assert word in install
        assert word in made


def tables(page: str) -> dict[str, str]:
    return dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end \1 -->", read(page), re.DOTALL))


def test_tables_are_filled_from_the_results():
    found = tables("docs/results.md")
    made = publish.result_tables(publish.read_results())
    assert found == made
    for name in ("quality", "latency", "frontier", "retrieval", "prefill", "understanding"):
        assert found[name].count("\n|") > 3


def test_every_chart_stands_beside_its_table():
    charts = {chart.name for chart in (ROOT / "benchmarks" / "results").glob("*.svg")}
    shown = {target.name for page in DOCS for target, _ in links(page) if target.suffix == ".svg"}
    assert charts == shown


@pytest.mark.parametrize(("page", "language"), [("README.md", "en"), ("README.ja.md", "ja")])
def test_the_claim_stands_in_the_results(page, language):
    results = publish.read_results()
    measured = (results["prefill"], results["prefill_xeon"], results["frontier"])
    table = headline_table(*measured, language)
    shown_tables = {"headline": table}
    if "peers" in results:
        shown_tables["peers"] = peers_line(results["peers"], language)
    assert tables(page) == shown_tables
    assert table.count("\n") == 1 + 4
    claim = next(
        part for part in prose(page).split("\n\n") if part.startswith("**") and "4,096" in part
    )
    (row,) = (line for line in table.splitlines() if line.startswith("| 4,096"))
    amd, xeon = (re.search(r"[\d.]+", cell)[0] for cell in row.split("|")[4:6])
    assert amd in claim
    assert xeon in claim
    shown = [
        row
        for row in results["frontier"]
        if (row["method"], row["aim"], row["length"]) == ("SAA, joint", 0.9, 4096)
    ]
    assert len(shown) == 2
    assert {f"{row['ppl_increase_pct']:+.1f} %" for row in shown} == {"+0.2 %"}
    assert f"{max(row['hi'] for row in shown):+.2f} %" in claim
    assert "+0.2 %" in claim


def test_the_animation_shows_the_recorded_run():
    made = film()
    scenes = list(made.scenes())
    shares = [scene.share for scene, _ in scenes if scene.share is not None]
    assert max(shares) == 1
    assert shares[-1] == pytest.approx(made.trace.density[made.layer, made.head], abs=1e-6)
    assert f"{made.trace.sparsity:.0%}" in " ".join(" ".join(scene.lines) for scene, _ in scenes)
    last = max(scene.seconds or 0 for scene, _ in scenes)
    assert last == pytest.approx(sorted(made.timed["samples_ms"]["dense"])[2] / 1000, rel=0.05)


def test_the_animation_is_small_and_moves():
    assert ANIMATION.stat().st_size < 2**20
    with Image.open(ANIMATION) as picture:
        assert picture.info["loop"] == 0
        stands_ms = []
        for at in range(picture.n_frames):
            picture.seek(at)
            picture.load()
            stands_ms.append(picture.info["duration"])
    assert sum(stands_ms) == sum(time for _, time in film().scenes())
    assert len(stands_ms) > 100
    head = ANIMATION.read_bytes()[:30]
    assert (head[:4], head[8:16]) == (b"RIFF", b"WEBPVP8X")
    assert struct.unpack("<I", head[20:24])[0] & 2, "the flag of an animation"
