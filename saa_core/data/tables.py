"""Tables from files, row by row: CSV, TSV, JSON, JSON lines, Parquet. However long a file is, only some rows are held
(of a JSON array all of them).

The one place that opens a user's table; labelled texts, corpora, audits and tuning all read through it.
A format is one function and one line in READERS. What was recognized and what was left out is kept in a
:class:`Reading`, to be said.
"""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saa_core.data import delimited, encodings
from saa_core.errors import TextError, choice

PARQUET_ROWS = 1024
"""Rows of a Parquet file that are held at once."""
LISTED = 5
"""Rows that are named where some are left out."""
MOST_NAMES, LONGEST_NAME = 20, 40
"""Names of columns, and characters of each, that an error shows."""
NO_TEXT, NO_LABEL = "no text", "no label"
LEFT_OUT = "left out"

Row = Mapping[str, object]


@dataclass
class Reading:
    """What is known of a file while it is read, for people.

    Args:
        form: how it is written, "Shift-JIS (cp932), separated by semicolons".
        rows: rows that were read so far: the number of the row that came last.
        left_out: numbers of the rows that were left out, by what they have.
        what: what ``rows`` counts.
    """

    form: str = ""
    rows: int = 0
    left_out: dict[str, list[int]] = field(default_factory=dict)
    what: str = "row"

    def leave_out(self, what: str, row: int | None = None) -> None:
        """Notes a row that is not used; ``what`` it has: "no text", "no label"."""
        self.left_out.setdefault(what, []).append(self.rows if row is None else row)

    def sentences(self, file: str | Path, outcome: str = LEFT_OUT) -> Iterator[str]:
        """What was read, and for each reason what was left out, with row numbers.

        Args:
            outcome: what becomes of those rows.
        """
        name = Path(file).name
        if self.form:
            yield f"{name}: {self.form}, {self.rows:,} {self.what}{'s' * (self.rows != 1)}"
        yield from (f"{name}: {omission}" for omission in self.omissions(outcome))

    def omissions(self, outcome: str = LEFT_OUT) -> Iterator[str]:
        """The sentences on rows that were left out, without the file's name."""
        for what, rows in self.left_out.items():
            if len(rows) == 1:
                yield f"1 row has {what}: {outcome} (row {rows[0]:,})"
            else:
                more = ", ..." if len(rows) > LISTED else ""
                named = ", ".join(f"{row:,}" for row in rows[:LISTED])
                yield f"{len(rows):,} rows have {what}: {outcome} (rows {named}{more})"


@dataclass(frozen=True)
class TooLong:
    """Texts that are longer than a limit.

    Args:
        limit: in tokens.
        texts: how many texts were looked at.
        count: how many are longer.
    """

    limit: int
    texts: int
    count: int

    def sentence(self, first: str) -> str:
        """That they are cut; ``first`` is where the first one stands."""
        return (
            f"{self.count:,} of {self.texts:,} text{'s' * (self.texts != 1)} "
            f"{'is' if self.count == 1 else 'are'} longer than {self.limit:,} tokens and cut there; "
            f"the first is {first}"
        )


def is_table(file: Path) -> bool:
    """True if the name of a file ends like one of READERS."""
    return file.suffix.lower() in READERS


def read_rows(file: Path, columns: Sequence[str], reading: Reading | None = None) -> Iterator[Row]:
    """The rows of a table, each with these columns at least; values are as the format has them.

    Args:
        reading: takes what was recognized, and counts the rows.

    Raises:
        TextError: the format is unknown, the file cannot be read, or it lacks a column.
    """
    if not is_table(file):
        raise TextError(f"{file}: {choice('format', file.suffix, READERS)}")
    known = Reading() if reading is None else reading
    try:
        for row in READERS[file.suffix.lower()](file, columns, known):
            known.rows += 1
            yield row
    except OSError as error:
        raise TextError(f"{file} cannot be read: {error.strerror or error}") from error


def read_column(
    file: str | Path, name: str = "text", reading: Reading | None = None
) -> Iterator[str]:
    """One column of texts, row by row, as it is. Rows without a text are left out.

    Args:
        reading: takes what was recognized and left out; its ``rows`` is the number of the row whose text
            came last, counted from 1.

    Raises:
        TextError: see :func:`read_rows` and :func:`text_of`; or no row has a text.
    """
    path, known, found = Path(file), Reading() if reading is None else reading, False
    for row in read_rows(path, (name,), known):
        text = text_of(path, known.rows, row, name)
        if text is None:
            known.leave_out(NO_TEXT)
        else:
            found = True
            yield text
    if not known.rows:
        raise TextError(f"{path} has no rows")
    if not found:
        raise TextError(f"{path}: column {name!r} is empty in each of its {known.rows:,} rows")


def text_of(file: Path, number: int, row: Row, name: str) -> str | None:
    """The text in one cell; None if it is missing, empty or only white space.

    Args:
        file, number: for the error; rows are counted from 1.

    Raises:
        TextError: it is something else than a text.
    """
    text = row[name]
    if is_missing(text):
        return None
    if not isinstance(text, str):
        raise TextError(f"{file}: row {number} has {name}={text!r:.60}, which is no text")
    return text


def is_missing(cell: object) -> bool:
    """True of nothing, of white space, and of NaN, which pandas writes for a missing value."""
    # NaN is the only value that differs from itself.
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())


def label_of(file: Path, number: int, row: Row, name: str) -> str | None:
    """The label in one cell as a word; None if it is missing. Whole numbers lose their ".0", which
    pandas gives a column with a missing value.

    Raises:
        TextError: it is a list or a table.
    """
    label = row[name]
    if is_missing(label):
        return None
    if isinstance(label, (list, tuple, set, dict)):
        raise TextError(
            f"{file}: row {number} has {name}={label!r:.60}; one label is needed, a word or a number"
        )
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label).strip()


def _require(file: Path, wanted: Iterable[str], there: Iterable[str]) -> None:
    there = list(there)
    for column in wanted:
        if column not in there:
            raise TextError(
                f"{file}: column {column!r} is missing; the columns are: {_listed(there)}"
            )
        if there.count(column) > 1:
            raise TextError(f"{file}: {there.count(column)} columns are named {column!r}")


def _listed(names: Sequence[str]) -> str:
    """Names on one line, which may be anything: a first line may be no header."""
    shown = [name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…" for name in names]
    if len(shown) > MOST_NAMES:
        shown = [*shown[:MOST_NAMES], f"and {len(names) - MOST_NAMES} more"]
    return "".join(sign if sign.isprintable() else "?" for sign in ", ".join(shown))


def _delimited(file: Path, wanted: Sequence[str], reading: Reading) -> Iterator[Row]:
    form = delimited.recognize_form(file, wanted)
    reading.form = str(form)
    _require(file, wanted, delimited.columns(file, form))
    yield from delimited.read(file, form)


def _jsonl(file: Path, wanted: Sequence[str], reading: Reading) -> Iterator[Row]:
    encoding = encodings.recognize(file)
    reading.form, first = f"{encoding.name}, one JSON object a line", True
    try:
        with file.open(encoding=encoding.codec) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = _json(line, f"{file}: line {number} is not JSON")
                    if not isinstance(row, dict):
                        raise TextError(
                            f"{file}: line {number} is no JSON object with {', '.join(wanted)}"
                        )
                    yield _completed(file, wanted, row, first)
                    first = False
    except UnicodeError as error:
        raise encodings.damaged(str(file), encoding, error) from error


def _json_array(file: Path, wanted: Sequence[str], reading: Reading) -> Iterator[Row]:
    encoding = encodings.recognize(file)
    text = encodings.read_text(file)
    if text.lstrip()[:1] == "{":
        yield from _jsonl(file, wanted, reading)
        return
    reading.form = f"{encoding.name}, a JSON array"
    rows = _json(text, f"{file} is not JSON")
    if not isinstance(rows, list):
        raise TextError(f"{file} is no JSON array of objects with {', '.join(wanted)}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise TextError(f"{file}: entry {number} is no JSON object with {', '.join(wanted)}")
        yield _completed(file, wanted, row, number == 1)


def _json(text: str, otherwise: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{otherwise}: {error}") from error


def _completed(file: Path, wanted: Sequence[str], row: dict[str, object], first: bool) -> Row:
    """An object with None for what it lacks; the first one says which columns there are."""
    if first:
        _require(file, wanted, row)
    return {**dict.fromkeys(wanted), **row}


def _parquet(file: Path, wanted: Sequence[str], reading: Reading) -> Iterator[Row]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise TextError(
            f"{file}: reading Parquet needs pyarrow, which is not installed; "
            "install pyarrow or write the file as CSV or JSONL"
        ) from error
    broken = (ValueError, OverflowError, importlib.import_module("pyarrow").ArrowException)
    try:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
    except broken as error:
        raise TextError(f"{file} is no Parquet file: {error}") from error
    _require(file, wanted, names)
    reading.form = "Parquet"
    try:
        for batch in table.iter_batches(PARQUET_ROWS, columns=list(wanted)):
            yield from batch.to_pylist()
    except broken as error:
        raise TextError(f"{file}: what follows row {reading.rows} is broken: {error}") from error


READERS: dict[str, Callable[[Path, Sequence[str], Reading], Iterator[Row]]] = {
    ".csv": _delimited,
    ".json": _json_array,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
    ".tsv": _delimited,
}
"""Ending of a file's name: what reads it."""
ENDINGS = ", ".join(READERS)
"""For help and errors."""
