"""The page docs/cli.md: every command with its options, from the parser itself.

python -m saa_core.cli.page > docs/cli.md
"""

import argparse
import re
from collections.abc import Iterator

from saa_core.cli.main import COMMANDS, RENAMED, parser_for

COMMAND = "python -m saa_core.cli.page > docs/cli.md"
HEAD = f"""# The command line

`saa COMMAND --help` says the same. Written by `{COMMAND}`.

Texts go in as UTF-8. A command ends with status 0, with 1 where it refuses a request (one sentence on
standard error says why and what would do), and with 2 for wrong usage. Progress goes to standard error.

| setting | what it says | default |
| --- | --- | --- |
| `SAA_CACHE` | folder of models, texts and compiled kernels; `--cache` goes before it | the user's cache folder |
| `SAA_STORE` | folder of recorded traces; `--store` goes before it | the user's data folder |
| `SAA_BACKEND` | address of a backend that `saa run` and `saa classify` ask; `--backend` goes before it | none: models are loaded here |
| `SAA_BACKEND_TOKEN` | token that is sent to it | none |
| `SAA_SERVE_TOKEN` | token that `saa serve` demands; goes before `--token-file` | none: only the loopback is served |
"""


def page() -> str:
    """The page as Markdown."""
    parser = parser_for([command.name for command in COMMANDS])
    # argparse offers no other way to the parsers of its commands.
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    lines = [HEAD, "| command | what it does |", "| --- | --- |"]
    lines += [f"| [`saa {c.name}`](#saa-{c.name}) | {_cell(c.help)} |" for c in COMMANDS]
    for command in COMMANDS:
        lines += ["", *_section(commands.choices[command.name])]
    lines += ["", "## Renamed", "", "These names still work, and say so.", ""]
    lines += [f"- `saa {old}` is `saa {new}`" for old, new in RENAMED.items()]
    return "\n".join(lines) + "\n"


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    places = [action for action in parser._actions if not action.option_strings]
    required = [action for action in parser._actions if action.option_strings and action.required]
    needed = [_value(action) for action in places] + [_name(action) for action in required]
    yield f"## {parser.prog}"
    yield ""
    yield parser.description or ""
    yield ""
    yield "```"
    yield " ".join([parser.prog, *needed, "[OPTION ...]"])
    yield "```"
    yield ""
    yield "| option | what it says |"
    yield "| --- | --- |"
    formatter = parser._get_formatter()
    for action in parser._actions:
        if "--help" not in action.option_strings:
            yield f"| `{_cell(_name(action))}` | {_cell(formatter._expand_help(action))} |"


def _name(action: argparse.Action) -> str:
    """An option with its value, or the name of a place."""
    if not action.option_strings:
        return _value(action)
    return " ".join(filter(None, [", ".join(action.option_strings), _value(action)]))


def _value(action: argparse.Action) -> str:
    """The value as it is typed."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    metavar = action.metavar or action.dest.upper()
    if isinstance(metavar, tuple):
        return " ".join(metavar)
    return {
        "+": f"{metavar} [{metavar} ...]",
        "*": f"[{metavar} ...]",
    }.get(str(action.nargs), metavar)


def _cell(text: str) -> str:
    """Safe inside a table of Markdown."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
