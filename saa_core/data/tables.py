"""Tables from files, row by row: CSV, JSONL, Parquet. However long a file is, only some rows are held.

The one place that opens a user's table; labelled texts, corpora, audits and tuning all read through it.
A format is one function and one line in READERS.
"""

import csv
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from saa_core.errors import TextError, choice

PARQUET_ROWS = 1024
"""Rows of a Parquet file that are held at once."""

Row = Mapping[str, object]


def is_table(file: Path) -> bool:
    """True if the name of a file ends like one of READERS."""
    return file.suffix.lower() in READERS


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a table, each with these columns at least; values are as the format has them.

    Raises:
        TextError: the format is unknown, the file cannot be read, or it lacks a column.
    """
    if not is_table(file):
        raise TextError(f"{file}: {choice('format', file.suffix, READERS)}")
    try:
        yield from READERS[file.suffix.lower()](file, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TextError(f"{file} cannot be read: {error}") from error


def read_column(file: str | Path, name: str = "text") -> Iterator[str]:
    """One column of texts, row by row, as it is.

    Raises:
        TextError: see :func:`read_rows`; or there are no rows, or a row has no text.
    """
    path, number = Path(file), 0
    for number, row in enumerate(read_rows(path, (name,)), 1):
        yield text_of(path, number, row, name)
    if not number:
        raise TextError(f"{path} has no rows")


def text_of(file: Path, number: int, row: Row, name: str) -> str:
    """The text in one cell.

    Args:
        file, number: for the error; rows are counted from 1.

    Raises:
        TextError: it is empty or no text.
    """
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise TextError(f"{file}: row {number} has {name}={text!r}; a text is needed")
    return text


def _require(file: Path, wanted: Iterable[str], there: Iterable[str]) -> None:
    there = list(there)
    for column in wanted:
        if column not in there:
            raise TextError(
                f"{file}: column {column!r} is missing; the columns are: {', '.join(there)}"
            )


def _csv(file: Path, wanted: Sequence[str]) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream)
        _require(file, wanted, table.fieldnames or ())
        yield from table


def _jsonl(file: Path, wanted: Sequence[str]) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise TextError(f"{file}: line {number} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise TextError(
                        f"{file}: line {number} is no JSON object with {', '.join(wanted)}"
                    )
                _require(file, wanted, row)
                yield row


def _parquet(file: Path, wanted: Sequence[str]) -> Iterator[Row]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise TextError(
            f"{file}: reading Parquet needs pyarrow, which is not installed; "
            "install pyarrow or write the file as CSV or JSONL"
        ) from error
    try:
        table = parquet.ParquetFile(file)
    except ValueError as error:
        raise TextError(f"{file} is no Parquet file: {error}") from error
    _require(file, wanted, table.schema_arrow.names)
    for batch in table.iter_batches(PARQUET_ROWS, columns=list(wanted)):
        yield from batch.to_pylist()


READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Row]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
"""Ending of a file's name: what reads it."""
