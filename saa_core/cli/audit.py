"""The command ``audit``: a corpus, dense and with SAA, into the store. Reads arguments, calls, prints."""

import argparse
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from saa_core.cli.models import load_model_and_policy, place, say, say_reading
from saa_core.cli.options import (
    column_option,
    cut_option,
    model_options,
    policy_options,
    store_option,
)
from saa_core.data import tables
from saa_core.errors import PolicyError, TextError
from saa_core.types import Policy

if TYPE_CHECKING:
    from saa_core.audit.audit import Audit
    from saa_core.audit.figures import About, SliceFigures
    from saa_core.audit.texts import TokenizedText
    from saa_core.model import Model
    from saa_core.store import Store

LINE = 60
"""Characters of a text that are printed."""


def audit(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=f"tables with a column of texts ({tables.ENDINGS}), or plain text files, which are cut "
        "into windows",
    )
    model_options(command, None, tasks=True)
    command.add_argument(
        "--task",
        metavar="NAME",
        help="shipped task or folder; its labels are compared (default: none, next words are)",
    )
    command.add_argument(
        "--tokens",
        type=float,
        metavar="SHARE",
        help="share of a task's token work to do, over 0 to 1 (default: the task's own)",
    )
    command.add_argument(
        "--name", metavar="NAME", help="name of the audit (default: the names of the files)"
    )
    column_option(command)
    command.add_argument(
        "--length",
        type=int,
        default=512,
        metavar="TOKENS",
        help="tokens of a window of a plain text file (default: %(default)s)",
    )
    cut_option(command, "the model takes")
    command.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="texts to audit at most, the first ones (default: all)",
    )
    command.add_argument(
        "--worst", type=int, default=5, metavar="N", help="cases to list (default: %(default)s)"
    )
    store_option(command)
    policy_options(command)
    command.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> None:
    files = files_of(options)
    run_audit(files, *load_model_and_policy(options), options)


def files_of(options: argparse.Namespace) -> list[Path]:
    """The files, if these options can be used; asked before a model is loaded.

    Raises:
        TextError, PolicyError: they cannot.
    """
    for name in ("limit", "worst"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise PolicyError(f"--{name}={value} must be 0 or more")
    for file in options.files:
        if not Path(file).is_file():
            raise TextError(f"FILE={file!r} is not a file")
    return list(map(Path, options.files))


def run_audit(
    files: list[Path], model: "Model", policy: Policy | None, options: argparse.Namespace
) -> None:
    """Runs what is missing and prints what was found."""
    if policy is None:
        raise PolicyError(f"--policy={options.policy!r} stays dense; there is nothing to audit")
    from saa_core.audit.audit import Audit, audit_name
    from saa_core.audit.texts import TextSpool
    from saa_core.cli.bars import Bars
    from saa_core.loading import load
    from saa_core.store import Store

    baseline = None
    if model.spec.adapter is not None:
        baseline = load(model.spec.name, device=options.device, dtype=model.dtype)
    store = Store(options.store)
    name = options.name or audit_name(*(file.stem for file in files))
    audit = Audit(model, policy, store, name, baseline=baseline, cut=options.cut)

    new = 0
    with TextSpool() as texts, Bars("text") as bars:
        readings = {file: tables.Reading() for file in files}
        read = (
            (file, known, *text)
            for file, known in readings.items()
            for text in _tokenized(audit, model, file, options, known)
        )
        cut = list[str]()
        for number, (file, known, text, whole) in enumerate(islice(read, options.limit), 1):
            texts.add(text)
            if len(text.text) < len(whole):
                cut.append(place(file, known))
            bars("checking", number, options.limit or 0)
        total = len(texts)
        bars.close()
        for file, known in readings.items():
            say_reading(file, known)
        if cut:
            say(tables.TooLong(model.max_length, total, len(cut)).sentence(cut[0]))
        for number, done in enumerate(audit.over(texts), 1):
            new += done.new
            bars("auditing", number, total)
    print(f"{total:,} texts: {new:,} run now, {total - new:,} were in the store or came twice")
    if total:
        for line in report(store, audit.key, options.worst):
            print(line)


def _tokenized(
    audit: "Audit",
    model: "Model",
    file: Path,
    options: argparse.Namespace,
    reading: tables.Reading,
) -> Iterator[tuple["TokenizedText", str]]:
    """The texts of a file as they will be run, and as they are; all are checked before the first is run."""
    from saa_core.run.corpora import texts_of

    for text in texts_of(model, file, options.column, options.length, reading):
        try:
            yield audit.tokenize(text), text
        except TextError as error:
            raise TextError(f"{place(file, reading)}: {error}", limit=error.limit) from error


def report(store: "Store", key: str, worst: int) -> Iterator[str]:
    """What the audit found: a line per slice, the worst cases, and how to open them."""
    from saa_core.audit.figures import about, by_slice, cases

    which = about(store, key)
    yield f"audit {key}: {which.model}, {which.policy}; {which.texts:,} texts in the store"
    yield ""
    yield from _slices(which, by_slice(store, which))
    found = cases(store, key, limit=worst)
    if not found:
        return
    yield ""
    yield "worst:"
    for case in found:
        if case.label is None:
            moved = f"{100 * case.agreement:.1f} % of the next words the same"
        elif case.agreement:
            moved = f"label {case.label} kept, {100 * case.lost:.1f} points of its probability lost"
        else:
            moved = f"label {case.dense_label or '?'} became {case.label}"
        yield f"  {case.id}  {moved}"
        yield f"      {_line(case.text)}"
    yield ""
    yield f"open one: saa report {found[0].id} -o worst.html, or on the page at /?trace={found[0].id}"
    yield f"all of them: saa query \"SELECT * FROM runs WHERE audit = '{key}' ORDER BY agreement, lost DESC\""


def _slices(which: "About", rows: "list[SliceFigures]") -> Iterator[str]:
    same = "labels the same (95 % interval)" if which.labels else "next words the same (quartiles)"
    work = "  token work" if which.labels else ""
    yield f"{'slice':12} {'texts':>7}  pairs computed{work}  {same:>32}  probability lost"
    for row in rows:
        agreement = f"{100 * row.agreement:.1f} % ({100 * row.low:.1f} to {100 * row.high:.1f})"
        work = f"{100 * row.token_share:>10.1f} %" if which.labels else ""
        yield (
            f"{row.name:12} {row.texts:>7,} {100 * row.density:>13.1f} %{work}  {agreement:>32} "
            f"{100 * row.lost:>9.2f} points"
        )


def _line(text: str) -> str:
    """The start of a text on one line, without what a terminal would act upon."""
    flat = " ".join(text[: 4 * LINE].split())
    safe = "".join(" " if unicodedata.category(sign)[0] == "C" else sign for sign in flat)
    return safe if len(safe) <= LINE else safe[: LINE - 1] + "…"
