"""The README runs as written: its Python, its commands, its files, its targets."""

import re
import shlex
from pathlib import Path

import pytest

from saa_core.cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_it_opens_with_a_picture_and_two_commands():
    lines = [line for line in README.splitlines() if line.strip()]
    assert lines[1].startswith("![")
    assert lines[2:5] == ["```sh", *[line for line in lines if line.startswith("make ")][:2]]


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "code", blocks("python"), ids=["joint", "tasks", "use", "own-model", "encoder"]
)
def test_python_runs(code, tmp_path, monkeypatch, capsys, smollm2):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_own_model_example_leaves_gates_and_is_ten_lines(tmp_path, monkeypatch, smollm2):
    code = next(code for code in blocks("python") if "saa.attach" in code)
    statements = [
        line for line in code.splitlines() if line and not line.startswith((" ", "from", "import"))
    ]
    assert len(statements) <= 10
    for word in ("attach", "train_gates", "run", "detach"):
        assert f"saa.{word}(" in code


COMMANDS = [
    line for block in blocks("sh") for line in block.splitlines() if line.startswith("saa ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line)[1:]
    if "--lengths" in arguments:  # as written, but on a short text: the suite times nothing
        arguments[arguments.index("--lengths") + 1] = "64"
    assert main(arguments) == 0
    assert capsys.readouterr().out


def test_plain_lines_match_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in ("-r requirements.txt", "streamlit run app/main.py", "fetch smollm2"):
        assert word in README
        assert word in makefile


def test_tables_are_filled_from_the_results():
    for name in ("quality", "latency", "frontier", "retrieval", "prefill", "understanding"):
        table = README.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0]
        assert table.count("\n|") > 3
        assert (ROOT / "benchmarks" / "results" / f"{name}.json").is_file()
