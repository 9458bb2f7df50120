"""Tables whose rows are lines and whose cells are separated: CSV, TSV and what is called so.

The separator is the one by which the first line has the columns that are wanted; of several, the one that most rows
agree with. Detectors that look at the rows alone take the commas of texts for separators and leave out rows
that do not fit, so DuckDB's is asked only what it is good at: quotation marks and escapes, where a plain reading
does not fit. Every row is then read strictly: one that does not fit is refused, never shifted.
"""

import csv
import importlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from saa_core.data.encodings import Encoding, damaged, recognize
from saa_core.errors import TextError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
NONE = "\x1f"
"""Separator of a table of one column, where commas belong to the texts."""
SAMPLE = 1 << 18
"""Characters from which separators and quotation marks are told."""
LONGEST = (1 << 31) - 1
"""Characters of a cell at most, what the csv module can be told on every system."""


@dataclass(frozen=True)
class Dialect:
    """How cells are separated and quoted.

    Args:
        quote: empty where quotation marks belong to the texts.
        escape: None where a quotation mark inside quotes is doubled.
    """

    separator: str
    quote: str = '"'
    escape: str | None = None

    def __str__(self) -> str:
        parts = [
            f"separated by {SEPARATORS[self.separator]}" if self.separator != NONE else "one column"
        ]
        if self.quote != '"':
            parts.append("single quotation marks" if self.quote else "none of them quoted")
        if self.escape is not None:
            parts.append("backslashes before quotation marks")
        return ", ".join(parts)

    def rows(self, stream: Iterator[str]) -> Iterator[list[str]]:
        """Rows of cells; raises csv.Error where quotation marks are not closed or text follows them."""
        csv.field_size_limit(LONGEST)
        yield from csv.reader(
            stream,
            delimiter=self.separator,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape,
            doublequote=self.escape is None,
            strict=True,
        )


@dataclass(frozen=True)
class Form:
    """How a file is written."""

    encoding: Encoding
    dialect: Dialect

    def __str__(self) -> str:
        return f"{self.encoding.name}, {self.dialect}"


def recognize_form(file: Path, wanted: Sequence[str]) -> Form:
    """Encoding, separator and quotation marks of a file.

    Args:
        wanted: columns that its first line names, if it is to be of use.

    Raises:
        TextError: the file cannot be read or is no text.
    """
    encoding = recognize(file)
    with file.open(encoding=encoding.codec, newline="") as stream:
        try:
            sample = stream.read(SAMPLE)
            cut = bool(stream.read(1))
        except UnicodeError as error:
            raise damaged(str(file), encoding, error) from error
    found = _best([Dialect(separator) for separator in SEPARATORS], sample, cut, wanted)
    if not _fits(found, sample, cut, wanted):
        tried = [found, *_ask_duckdb(found.separator, sample)]
        if not set(wanted) <= set(_try(found, sample, cut)[0]):
            tried += [Dialect(separator, "'") for separator in SEPARATORS]
        found = _best(tried, sample, cut, wanted)
    return Form(encoding, found)


def read(file: Path, form: Form) -> Iterator[dict[str, str | None]]:
    """The rows of a file by the names in its first line; empty lines are passed over. A row with
    fewer cells has None in the others.

    Raises:
        TextError: a row has more cells than the first line, quotation marks are not closed, or bytes do
            not belong to the encoding.
    """
    number, names = 0, None
    try:
        with file.open(encoding=form.encoding.codec, newline="") as stream:
            for cells in form.dialect.rows(stream):
                if names is None:
                    names = cells if any(cells) else None
                    continue
                if not cells:
                    continue
                number += 1
                if any(cells[len(names) :]):
                    raise TextError(
                        f"{file}: row {number} has {len(cells)} cells and the first line {len(names)} "
                        f"({form.dialect}); a text that holds the separator needs quotation marks"
                    )
                padded = [*cells, *[None] * (len(names) - len(cells))]
                yield dict(zip(names, padded, strict=False))
    except csv.Error as error:
        raise TextError(f"{file}: row {number + 1} cannot be read ({form}): {error}") from error
    except UnicodeError as error:
        raise damaged(str(file), form.encoding, error) from error


def columns(file: Path, form: Form) -> list[str]:
    """The names in the first line.

    Raises:
        TextError: see :func:`read`.
    """
    try:
        with file.open(encoding=form.encoding.codec, newline="") as stream:
            return next((cells for cells in form.dialect.rows(stream) if any(cells)), [])
    except csv.Error as error:
        raise TextError(f"{file}: the first line cannot be read ({form}): {error}") from error
    except UnicodeError as error:
        raise damaged(str(file), form.encoding, error) from error


def _best(tried: list[Dialect], sample: str, cut: bool, wanted: Sequence[str]) -> Dialect:
    """The dialect with the wanted columns that most rows agree with; of equals the first that has
    several columns."""

    def rank(dialect: Dialect) -> tuple[bool, bool, float, int]:
        names, share = _try(dialect, sample, cut)
        return set(wanted) <= set(names), len(names) > 1, share, len(names)

    best = max(tried, key=rank)
    names, _ = _try(best, sample, cut)
    return best if len(names) > 1 else Dialect(NONE, best.quote, best.escape)


def _fits(dialect: Dialect, sample: str, cut: bool, wanted: Sequence[str]) -> bool:
    names, share = _try(dialect, sample, cut)
    return set(wanted) <= set(names) and share == 1


def _try(dialect: Dialect, sample: str, cut: bool) -> tuple[list[str], float]:
    """Names in the first line, and the share of the rows that have no more cells than it; rows behind one
    that cannot be read do not count as agreeing."""
    names, rows, good = list[str](), 0, 0
    lines = io.StringIO(sample, newline="")
    try:
        waiting: list[str] | None = None  # the last row of a cut sample may be cut as well
        for cells in dialect.rows(lines):
            if not names:
                names = cells if any(cells) else []
                continue
            if waiting is not None:
                rows, good = rows + 1, good + (not any(waiting[len(names) :]))
            waiting = cells or None
        if waiting is not None and not cut:
            rows, good = rows + 1, good + (not any(waiting[len(names) :]))
    except csv.Error:
        rest = lines.read()
        if not (cut and not rest):
            rows += 1 + rest.count("\n")
    return names, good / rows if rows else 1.0


def _ask_duckdb(separator: str, sample: str) -> list[Dialect]:
    """What DuckDB's detector takes for quotation mark and escape."""
    duckdb = importlib.import_module("duckdb")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sample.csv"
        file.write_text(sample, "utf-8", "replace", newline="")
        try:
            with duckdb.connect(config={"threads": 1}) as database:
                found = database.execute(
                    "SELECT Quote, Escape FROM sniff_csv(?, delim = ?, skip = 0, "
                    "null_padding = true, header = true, all_varchar = true)",
                    [str(file), "," if separator == NONE else separator],
                ).fetchone()
        except duckdb.Error:
            return []
    quote, escape = found if found is not None else ('"', "")
    if quote in ('"', "'"):
        return [Dialect(separator, quote, "\\" if escape == "\\" else None)]
    return [] if _quoted(separator, sample) else [Dialect(separator, "")]


def _quoted(separator: str, sample: str) -> bool:
    """True if of the cells that begin with a quotation mark most also end with one."""
    begun, ended = 0, 0
    for line in sample.splitlines():
        for cell in line.split(separator):
            begun += cell.startswith('"')
            ended += len(cell) > 1 and cell.startswith('"') and cell.endswith('"')
    return 2 * ended > begun
