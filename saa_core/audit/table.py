"""The texts of a table that somebody brings: which column holds them, and the first rows of it.

Reads through data/tables.py; a row without a text is counted and passed over, where an audit from the
command line refuses it.
"""

import importlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from saa_core.data import tables
from saa_core.errors import TextError

ROWS = 1_000
"""Most rows that are taken."""
LOOKED_AT = 50
"""Rows from which it is told which columns hold texts."""
NAMED = "text"
"""The column that is taken where nobody says."""


@dataclass(frozen=True)
class ColumnTexts:
    """The texts of a column, in the order of their rows.

    Args:
        rows: how many rows were read.
        empty: rows of them that hold no text.
        more: True if the table has further rows.
    """

    texts: tuple[str, ...]
    rows: int
    empty: int
    more: bool


def text_columns(file: Path) -> tuple[str, ...]:
    """Columns that hold texts in the first rows, the likeliest one first: the one named "text", then
    those with longer texts.

    Raises:
        TextError: see :func:`saa_core.data.tables.read_rows`; or there are no rows, or no texts.
    """
    lengths, rows = dict[str, int](), 0
    for row in islice(tables.read_rows(file, _columns(file)), LOOKED_AT):
        rows += 1
        for name, value in row.items():
            # A row of a CSV file that is too long has its rest under None.
            if isinstance(name, str) and isinstance(value, str) and value.strip():
                lengths[name] = lengths.get(name, 0) + len(value)
    if not rows:
        raise TextError(f"{file} has no rows")
    if not lengths:
        raise TextError(f"{file}: none of the first {rows} rows has a text in any column")
    return tuple(sorted(lengths, key=lambda name: (name != NAMED, -lengths[name])))


def read_texts(file: Path, column: str, most: int = ROWS) -> ColumnTexts:
    """The first rows of a column.

    Raises:
        TextError: see :func:`saa_core.data.tables.read_rows`.
    """
    texts, rows = list[str](), 0
    for row in tables.read_rows(file, (column,)):
        if rows == most:
            return ColumnTexts(tuple(texts), rows, rows - len(texts), True)
        rows += 1
        value = row[column]
        if isinstance(value, str) and value.strip():
            texts.append(value)
    return ColumnTexts(tuple(texts), rows, rows - len(texts), False)


def _columns(file: Path) -> tuple[str, ...]:
    """What to ask a reader for: a Parquet file gives only the columns that are asked for."""
    if file.suffix.lower() != ".parquet":
        return ()
    try:
        schema = importlib.import_module("pyarrow.parquet").read_schema(file)
    except (ImportError, ValueError, OSError):
        return ()  # reading says what is wrong
    return tuple(schema.names)
