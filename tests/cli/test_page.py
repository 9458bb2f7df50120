"""docs/cli.md, and that the help of every option says what one needs to know."""

import argparse
from pathlib import Path

import pytest

from saa_core.cli import options
from saa_core.cli.main import COMMANDS, main, parser_for
from saa_core.cli.page import COMMAND, page
from saa_core.kernels import KERNELS

ROOT = Path(__file__).parent.parent.parent


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = parser_for([command.name for command in COMMANDS])
    return next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices


def test_the_page_is_what_the_commands_say():
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), f"docs/cli.md is stale; write it again with: {COMMAND}"


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_each_option_says_what_it_is_and_what_holds_without_it(name):
    parser = commands()[name]
    for action in parser._actions:
        shown = "/".join(action.option_strings) or action.dest
        assert action.help, f"{shown} has no help"
        if "--help" in action.option_strings or not action.option_strings:
            continue
        said = parser._get_formatter()._expand_help(action)
        assert ("required" if action.required else "(default: ") in said, f"{shown}: {said}"
        if action.nargs != 0 and action.choices is None:
            values = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
            assert all(values), f"{shown} has no name for its value"
            if isinstance(action.nargs, int):
                assert len(values) == action.nargs


def test_defaults_that_are_numbers_are_said_as_they_are():
    for name, parser in commands().items():
        for action in parser._actions:
            if isinstance(action.default, (int, float)) and action.nargs != 0:
                said = parser._get_formatter()._expand_help(action)
                assert f"(default: {action.default})" in said, f"{name} {action.dest}: {said}"
            if isinstance(action.default, list) and action.default:
                said = parser._get_formatter()._expand_help(action)
                assert f"(default: {options.listed(action.default)})" in said, f"{name}: {said}"


def test_the_kernels_that_can_be_chosen_are_those_there_are():
    assert tuple(KERNELS) == options.KERNELS


def test_help_lists_each_command_and_no_old_name(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("    ")]
    assert {command.name for command in COMMANDS} <= set(listed)
    assert "inputs" not in listed
