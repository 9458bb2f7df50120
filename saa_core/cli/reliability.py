"""The part of the `saa` command that says how true predicted mass is: ``reliability``."""

import argparse
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

from saa_core.cli.bars import Bars
from saa_core.cli.models import load_model, model_options, write_gates
from saa_core.data import corpus
from saa_core.gates.reliability import Diagram, Reliability
from saa_core.train.reliability import LENGTHS, MASSES, halves, measure_reliability


def register(commands: Any) -> None:
    """Adds the command to the parser of ``saa``."""
    command = commands.add_parser(
        "reliability", help="measure how true predicted mass is, and store the correction"
    )
    model_options(command)
    command.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="NAME|FILE",
        help="held-out part: first half to fit, second to judge",
    )
    command.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="TOKENS")
    command.add_argument("--masses", type=float, nargs="+", default=list(MASSES))
    command.add_argument("--windows", type=int, default=2, help="per text and length")
    command.add_argument("--out", required=True, help="folder for the gates with their correction")
    command.set_defaults(run=_reliability)


def _reliability(options: argparse.Namespace) -> None:
    fitted, judged = halves(corpus.documents(options.data))
    model = load_model(options)
    with closing(Bars("run")) as bars:
        model = measure_reliability(
            model,
            fitted,
            judged,
            lengths=options.lengths,
            masses=options.masses,
            windows=options.windows,
            command=options.command,
            progress=partial(bars, ""),
        )
    for found in model.spec.reliability:
        for line in reliability_lines(found):
            print(line)
    write_gates(model, options.out)


def reliability_lines(found: Reliability) -> Iterator[str]:
    """Errors before and after the correction, and the bins."""
    how = "pair by pair" if found.pairwise else "in blocks"
    lengths = ", ".join(map(str, found.about.get("lengths", ())))
    yield f"decided {how}, texts of {lengths} tokens: error in points, before -> after"
    yield f"  all rows together {_points(found.before)} -> {_points(found.after)}"
    for name, figure in (("mean over heads", _mean), ("worst head", _worst)):
        yield f"  {name:17} {figure(found.before):.2f} -> {figure(found.after):.2f}"
    yield "  predicted %   observed %   calibrated %   observed %   rows"
    for before, after in zip(found.before.bins, found.after.bins, strict=True):
        yield (
            f"{100 * before.predicted:8.1f} {100 * before.observed:8.1f} {100 * after.predicted:13.1f}"
            f"{100 * after.observed:9.1f} {before.rows:6}"
        )


def _points(diagram: Diagram) -> str:
    return f"{100 * diagram.error:.2f}"


def _mean(diagram: Diagram) -> float:
    heads = [error for layer in diagram.heads for error in layer]
    return 100 * sum(heads) / len(heads)


def _worst(diagram: Diagram) -> float:
    return 100 * max(error for layer in diagram.heads for error in layer)
