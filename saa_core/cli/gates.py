"""Commands that add to trained gates what was measured with them: ``calibrate``, ``reliability``,
``masses``, ``ood``."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from saa_core.cli.models import load_model, write_gates
from saa_core.cli.options import data_option, listed, model_options
from saa_core.errors import PolicyError
from saa_core.train.config import (
    MASS_BLOCKS,
    MASS_CHOICES,
    MASS_LENGTHS,
    MASS_LIMIT,
    OOD_FIT_WINDOWS,
    OOD_LENGTHS,
    OOD_LIMIT_WINDOWS,
    RELIABILITY_LENGTHS,
    RELIABILITY_MASSES,
)
from saa_core.types import Policy

if TYPE_CHECKING:
    from saa_core.gates.reliability import Diagram, Reliability


def calibrate(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    model_options(command)
    data_option(command, "the training part is measured on")
    command.add_argument(
        "--mass",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="predicted mass to measure at, over 0 to 1 (default: %(default)s)",
    )
    command.add_argument(
        "--length",
        type=int,
        default=1024,
        metavar="TOKENS",
        help="tokens of a window (default: %(default)s)",
    )
    _windows(command, "--windows", 1, "per text")
    command.add_argument(
        "--exponent",
        type=float,
        default=1.5,
        metavar="X",
        help="power of the missed mass with which a model's output moves (default: %(default)s)",
    )
    _out(command, "the calibrated gates")
    command.set_defaults(run=_calibrate)


def _windows(command: argparse.ArgumentParser, option: str, default: int, what: str) -> None:
    command.add_argument(
        option, type=int, default=default, metavar="N", help=f"windows {what} (default: {default})"
    )


def _lengths(command: argparse.ArgumentParser, default: tuple[int, ...]) -> None:
    command.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=list(default),
        metavar="TOKENS",
        help=f"lengths of the windows (default: {listed(default)})",
    )


def _out(command: argparse.ArgumentParser, written: str) -> None:
    command.add_argument(
        "--out", required=True, metavar="FOLDER", help=f"where to write {written}; required"
    )


def _calibrate(options: argparse.Namespace) -> None:
    policy = Policy(mass=options.mass, granularity="block", tail=0)
    from saa_core.attach import save_gates
    from saa_core.cli.bars import Bars
    from saa_core.data import corpus
    from saa_core.train.calibrate import calibrate

    with Bars() as bars:
        texts = corpus.join_documents(corpus.documents(options.data, bars), "train", limit=400_000)
    model = load_model(options)
    with Bars() as bars:
        found = calibrate(
            model,
            texts,
            policy,
            length=options.length,
            windows=options.windows,
            exponent=options.exponent,
            progress=partial(bars, "measuring layers"),
        )
    print("layer  slack  share")
    for layer, calibration in enumerate(found):
        print(f"{layer:5} {calibration.slack:6.2f} {calibration.share:6.2f}")
    training = dict(model.spec.training) | {"calibration": options.command}
    print(f"gates: {save_gates(model, options.out, training=training)}")


def reliability(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    model_options(command)
    data_option(command, "of the held-out part the first half is fitted to, the second judges")
    _lengths(command, RELIABILITY_LENGTHS)
    command.add_argument(
        "--masses",
        type=float,
        nargs="+",
        default=list(RELIABILITY_MASSES),
        metavar="SHARE",
        help=f"predicted masses to run at, over 0 to 1 (default: {listed(RELIABILITY_MASSES)})",
    )
    _windows(command, "--windows", 2, "per text and length")
    _out(command, "the gates with their correction")
    command.set_defaults(run=_reliability)


def _reliability(options: argparse.Namespace) -> None:
    from saa_core.cli.bars import Bars
    from saa_core.data import corpus
    from saa_core.train.reliability import halves, measure_reliability

    with Bars() as bars:
        fitted, judged = halves(corpus.documents(options.data, bars))
    model = load_model(options)
    with Bars("run") as bars:
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


def masses(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    model_options(command)
    command.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="NAME",
        help="pinned texts (saa doctor lists them) or text files that taught no gate, a kind each; the held-out "
        "part is measured on (default: none, with --rows)",
    )
    _lengths(command, MASS_LENGTHS)
    command.add_argument(
        "--blocks",
        nargs="+",
        default=[f"{queries}x{keys}" for queries, keys in MASS_BLOCKS],
        metavar="SIZE",
        help="blocks of queries x keys for texts over 512 tokens; shorter ones are decided pair by pair "
        f"(default: {listed(f'{queries}x{keys}' for queries, keys in MASS_BLOCKS)})",
    )
    command.add_argument(
        "--masses",
        type=float,
        nargs="+",
        default=list(MASS_CHOICES),
        metavar="SHARE",
        help=f"masses to choose from, over 0 to 1 (default: {listed(MASS_CHOICES)})",
    )
    _windows(command, "--windows", 12, "per kind of text and length")
    command.add_argument(
        "--limit",
        type=float,
        default=MASS_LIMIT,
        metavar="SHARE",
        help="increase of perplexity at most, upper end of the 95 %% interval on every kind (default: %(default)s)",
    )
    command.add_argument(
        "--rows",
        metavar="FILE",
        help="rows as JSON: what is measured goes there beside what it holds; without --data they are chosen from "
        "(default: none)",
    )
    _out(command, "the gates with their default")
    command.set_defaults(run=_masses)


def _masses(options: argparse.Namespace) -> None:
    if not options.data and not options.rows:
        raise PolicyError("name texts to measure on with --data, or measured rows with --rows")
    blocks = [_block(size) for size in options.blocks]
    from saa_core.attach import save_gates
    from saa_core.certify.masses import choose_masses, latest, measure_masses, read_rows
    from saa_core.cli.bars import Bars
    from saa_core.data import corpus
    from saa_core.files import write_json
    from saa_core.loading import load

    file = Path(options.rows) if options.rows else None
    rows = read_rows(file) if file is not None and file.is_file() else []
    model = load_model(options)
    if options.data:
        with Bars() as bars:
            texts = corpus.join_documents(corpus.documents(options.data, bars), "heldout")
        original = None
        if model.spec.adapter is not None:
            original = load(model.spec.name, device=str(model.device), dtype=model.dtype)
        with Bars("run") as bars:
            rows += measure_masses(
                model,
                texts,
                lengths=options.lengths,
                blocks=blocks,
                masses=options.masses,
                windows=options.windows,
                baseline=original,
                progress=partial(bars, ""),
            )
        rows = latest(rows)
        if file is not None:
            write_json(file, [asdict(row) for row in rows])
    about = {
        "command": options.command,
        "limit": options.limit,
        "interval": "Student's t over windows, 95 %, upper end",
        "kinds": sorted({row.kind for row in rows}),
    }
    table = choose_masses(rows, options.limit, about)
    print("tokens     block  mass")
    for entry in table.entries:
        print("{:6}  {:>8}  {:.4g}".format(entry.length, "{}x{}".format(*entry.block), entry.mass))
    for gate in model.gates:
        gate.defaults = table
    name = model.spec.gate if model.spec.trained else None
    policy = replace(model.spec.policy, mass=None, budget=None)
    out = save_gates(model, options.out, name=name, training=model.spec.training, policy=policy)
    print(f"gates: {out}")


def _block(size: str) -> tuple[int, int]:
    """ "32x16" as (32, 16)."""
    queries, _, keys = size.partition("x")
    if not (queries.isdigit() and keys.isdigit()):
        raise PolicyError(f"--blocks={size!r} must be queries x keys in tokens, for example 32x16")
    return Policy(block=(int(queries), int(keys))).block


def ood(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    model_options(command)
    data_option(
        command,
        "the training part is fitted to; half of the held-out part sets the limit, the other half "
        "tells how often it is exceeded",
    )
    _lengths(command, OOD_LENGTHS)
    _windows(command, "--fit-windows", OOD_FIT_WINDOWS, "per length to fit to")
    _windows(command, "--limit-windows", OOD_LIMIT_WINDOWS, "per length that set the limit")
    _out(command, "the gates with what was fitted")
    command.set_defaults(run=_ood)


def _ood(options: argparse.Namespace) -> None:
    from saa_core.cli.bars import Bars
    from saa_core.data import corpus
    from saa_core.train.ood import fit_detector, parts

    with Bars() as bars:
        fitted, limited, judged = parts(corpus.documents(options.data, bars))
    model = load_model(options)
    with Bars("window") as bars:
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


def reliability_lines(found: "Reliability") -> Iterator[str]:
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


def _points(diagram: "Diagram") -> str:
    return f"{100 * diagram.error:.2f}"


def _mean(diagram: "Diagram") -> float:
    heads = [error for layer in diagram.heads for error in layer]
    return 100 * sum(heads) / len(heads)


def _worst(diagram: "Diagram") -> float:
    return 100 * max(error for layer in diagram.heads for error in layer)
