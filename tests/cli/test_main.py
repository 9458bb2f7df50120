"""The frame of the saa command: options that exclude each other, errors as sentences, quiet endings."""

import argparse
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import saa_core as saa
from saa_core.cli import main as frame
from saa_core.cli.main import main
from saa_core.cli.options import policy_of, policy_options

ROOT = Path(__file__).parent.parent.parent


def given(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    policy_options(parser)
    return parser.parse_args(arguments)


def test_a_mass_replaces_the_budget_of_the_default_and_the_other_way():
    budget = saa.Policy(budget=0.6, budget_over="call", sink=2)
    assert policy_of(given("--mass", "0.8"), budget).mass == 0.8
    assert policy_of(given("--mass", "0.8"), budget).budget is None
    assert policy_of(given("--mass", "0.8"), budget).rule_name == "mass"
    mass = saa.Policy(mass=0.9, rule="mass", guard=saa.Guard(0.1))
    assert policy_of(given("--budget", "0.3"), mass).mass is None
    assert policy_of(given("--budget", "0.3"), mass).rule_name == "budget"
    assert policy_of(given("--budget", "0.3"), mass).guard == saa.Guard(0.1)
    assert policy_of(given("--sink", "1"), budget).budget == 0.6
    with pytest.raises(saa.PolicyError, match=r"--mass 0\.8 and --budget 0\.3 exclude each other"):
        policy_of(given("--mass", "0.8", "--budget", "0.3"), mass)


def test_a_guard_and_its_chance():
    assert policy_of(given("--guard", "0.1", "--delta", "0.2"), saa.Policy()).guard == saa.Guard(
        0.1, 0.2
    )
    with pytest.raises(saa.PolicyError, match="give --guard"):
        policy_of(given("--delta", "0.2"), saa.Policy())


@pytest.fixture
def trace() -> str:
    return str(next((ROOT / "assets" / "decks").glob("*-bakery.saa")))


def test_a_file_that_cannot_be_written_is_one_sentence(trace, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    out = str(tmp_path / "file" / "page.html")
    assert main(["report", trace, "-o", out]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"saa: --out={out!r} cannot be written: ")
    assert errors.count("\n") == 1


def test_a_folder_in_place_of_a_file_is_one_sentence(trace, tmp_path, capsys):
    assert main(["report", trace, "-o", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("saa: ")
    assert str(tmp_path) in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["query", "SELECT * FROM range(100000)"]])
def test_a_reader_that_leaves_ends_the_command_quietly(arguments, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "saa_core.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "SAA_STORE": str(tmp_path)},
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b""
    assert process.returncode in (0, 1)


def test_the_old_name_of_a_command_works_and_says_the_new_one(capsys, tmp_path):
    asked = ["--data", "no-such-source", "--out", str(tmp_path)]
    assert main(["inputs", *asked]) == 1
    errors = capsys.readouterr().err
    assert "saa: the command inputs is now ood\n" in errors
    assert "no-such-source" in errors
    assert main(["ood", *asked]) == 1
    assert "is now" not in capsys.readouterr().err


def test_a_text_that_is_too_long_names_the_option_that_helps(monkeypatch, capsys, text_file):
    def refuse(options: argparse.Namespace) -> None:
        raise saa.TextError("text has 9 tokens, and m takes at most 8", limit=8, length=9, cut_at=3)

    monkeypatch.setattr("saa_core.cli.run._run", refuse)
    assert main(["run", str(text_file)]) == 1
    assert "takes at most 8; --cut does so" in capsys.readouterr().err


def test_warnings_of_libraries_stay_out_unless_they_are_asked_for(monkeypatch, capsys):
    def warn(given: list[str], options: argparse.Namespace) -> int:
        warnings.warn("of a library", FutureWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(frame, "_run", warn)
    monkeypatch.setattr(sys, "warnoptions", [])
    assert main([]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "warnoptions", ["always"])
    with pytest.warns(FutureWarning, match="of a library"):
        main([])


def test_the_cache_can_be_named_before_and_after_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAA_CACHE", str(tmp_path))  # so that it is as it was after the test
    for arguments in (
        ["--cache", str(tmp_path / "a"), "fetch", "no-such"],
        ["fetch", "no-such", "--cache", str(tmp_path / "b")],
    ):
        assert main(arguments) == 1
        assert os.environ["SAA_CACHE"] == arguments[arguments.index("--cache") + 1]
    assert "minilm, smollm2" in capsys.readouterr().err
