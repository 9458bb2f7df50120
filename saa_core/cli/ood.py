"""The part of the `saa` command that stores what the training texts look like: ``inputs``."""

import argparse
from contextlib import closing
from functools import partial
from typing import Any

from saa_core.cli.bars import Bars
from saa_core.cli.models import load_model, model_options, write_gates
from saa_core.data import corpus
from saa_core.train.ood import FIT_WINDOWS, LENGTHS, LIMIT_WINDOWS, fit_detector, parts


def register(commands: Any) -> None:
    """Adds the command to the parser of ``saa``."""
    command = commands.add_parser(
        "inputs", help="store what the training texts look like, so that a guard notices other ones"
    )
    model_options(command)
    command.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="NAME|FILE",
        help="the training part is fitted to; half of the held-out part sets the limit and the "
        "other half tells how often it is exceeded",
    )
    command.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="TOKENS")
    command.add_argument("--fit-windows", type=int, default=FIT_WINDOWS, help="per length")
    command.add_argument("--limit-windows", type=int, default=LIMIT_WINDOWS, help="per length")
    command.add_argument("--out", required=True, help="folder for the gates with what was fitted")
    command.set_defaults(run=_inputs)


def _inputs(options: argparse.Namespace) -> None:
    fitted, limited, judged = parts(corpus.documents(options.data))
    model = load_model(options)
    with closing(Bars("window")) as bars:
        found = fit_detector(
            model,
            fitted,
            limited,
            judged,
            lengths=options.lengths,
            fit_windows=options.fit_windows,
            limit_windows=options.limit_windows,
            command=options.command,
            progress=partial(bars, ""),
        )
    for length, limit in zip(found.lengths, found.limits, strict=True):
        print(f"{length:6} tokens: far from a distance of {limit:.2f}")
    for source, share in found.about["over"].items():
        print(f"{source:16} {100 * share:.2f} % of other held-out windows are farther")
    write_gates(model, options.out)
