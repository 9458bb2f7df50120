"""The ``saa`` command: finds the command that was asked for, runs it, and turns errors into sentences.

Only the file of that command is read, and it imports what it runs when it runs: help, wrong usage and
whatever needs no model answer without PyTorch.
"""

import argparse
import contextlib
import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saa_core.cli.options import HelpFormatter
from saa_core.errors import SAAError, TextError


@dataclass(frozen=True)
class Command:
    """A command: its name, what it does in half a sentence, and the file below this folder that has it.

    That file holds a function of the command's name, which adds the options and sets ``run``.
    """

    name: str
    help: str
    file: str

    def fill(self, parser: argparse.ArgumentParser) -> None:
        """Adds the command's options."""
        parser.add_argument(
            "--cache",
            metavar="FOLDER",
            default=argparse.SUPPRESS,
            help="folder of models and texts (default: SAA_CACHE, or the user's cache folder)",
        )
        module = importlib.import_module(f"saa_core.cli.{self.file}")
        getattr(module, self.name.replace("-", "_"))(parser)


COMMANDS = (
    Command("fetch", "download pinned models and texts, verified", "setup"),
    Command("doctor", "say what works on this machine", "setup"),
    Command("run", "run a text and record its trace", "run"),
    Command("measure", "time dense attention against SAA, in turns", "run"),
    Command("classify", "label texts with a trained task", "tasks"),
    Command("audit", "compare dense and SAA on every text of a corpus; resumable", "audit"),
    Command("tune", "choose a policy for your texts that keeps to what you can accept", "tune"),
    Command("train", "train gates by distillation on a frozen model", "train"),
    Command("joint", "train model and gates together, under the sparse mask (LoRA)", "train"),
    Command("train-task", "fine-tune and gate an encoder on labelled texts", "tasks"),
    Command(
        "export", "write a task's model as a folder that runs without PyTorch", "backend.export"
    ),
    Command(
        "serve",
        "answer over HTTP: labels, embeddings, continuations, recorded runs",
        "backend.serve",
    ),
    Command("calibrate", "share missed mass out over the layers", "gates"),
    Command("reliability", "measure how true predicted mass is, and store the correction", "gates"),
    Command("masses", "choose the default mass by length, and store it with the gates", "gates"),
    Command("ood", "store what training texts look like, so that a guard notices others", "gates"),
    Command("query", "select from the recorded traces with SQL", "records"),
    Command("report", "write a trace as one HTML file for any browser", "records"),
    Command("present", "write a presentation as one HTML file that works offline", "records"),
)
RENAMED = {"inputs": "ood"}
"""Names of before, which still work and say so."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 for a refused request, 2 for wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    # Transformers reads it when it is imported: what it has to say is for programmers.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    options = argparse.Namespace()
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            try:
                return _run(given, options)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
    except SAAError as error:
        print(f"saa: {error}{_hint(error, options)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _let_go_of_stdout()
        return 1
    except OSError as error:
        print(f"saa: {_sentence(error, options)}", file=sys.stderr)
        if error.filename is None:  # what was printed could not be written
            _let_go_of_stdout()
        return 1
    except KeyboardInterrupt:
        print("saa: stopped", file=sys.stderr)
        return 130


def parser_for(names: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of ``saa``; only the commands among ``names`` have their options."""
    parser = argparse.ArgumentParser(
        prog="saa",
        description="Sparse Adaptive Attention: a learned gate decides what is computed.",
        epilog="saa COMMAND --help lists the options of a command.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="folder of models and texts (default: SAA_CACHE, or the user's cache folder)",
    )
    found = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        own = found.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            formatter_class=HelpFormatter,
        )
        if command.name in names:
            command.fill(own)
    for old, new in RENAMED.items():
        if old in names:
            command = next(command for command in COMMANDS if command.name == new)
            own = found.add_parser(old, formatter_class=HelpFormatter)
            command.fill(own)
            own.set_defaults(renamed=(old, new))
    return parser


def _run(given: list[str], options: argparse.Namespace) -> int:
    parser_for(given).parse_args(given, namespace=options)
    options.command = shlex.join(["saa", *given])
    if options.cache:
        os.environ["SAA_CACHE"] = options.cache
    if renamed := getattr(options, "renamed", None):
        print("saa: the command {} is now {}".format(*renamed), file=sys.stderr)
    return options.run(options) or 0


def _hint(error: SAAError, options: argparse.Namespace) -> str:
    """Which option helps, where one does."""
    too_long = isinstance(error, TextError) and error.limit is not None
    if too_long and getattr(options, "cut", None) is False:
        return "; without --no-cut it is cut" if hasattr(options, "cuts") else "; --cut does so"
    return ""


def _sentence(error: OSError, options: argparse.Namespace) -> str:
    """What the operating system refused, with the file, and the option that named it."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return reason
    file, out = Path(str(error.filename)), getattr(options, "out", None)
    if out and file in {Path(out), *Path(out).parents, Path(out).parent / file.name}:
        return f"--out={out!r} cannot be written: {file}: {reason}"
    return f"{file}: {reason}"


def _let_go_of_stdout() -> None:
    """Whoever read our output has left, as ``head`` does: what is still to be written goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
