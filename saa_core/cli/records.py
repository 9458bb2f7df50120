"""Commands on recorded traces: ``query``, ``report``, ``present``. None of them needs PyTorch."""

import argparse
import csv
import sys
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from saa_core.cli.options import store_option
from saa_core.errors import StoreError
from saa_core.files import dump_json, replacing

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "parquet")
WIDEST = 60
"""Characters of a cell in a printed table; CSV and JSON hold all."""


def query(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    from saa_core.store import ROWS, SECONDS

    command.description = (
        "Runs one SELECT over the tables runs, layers, heads, tokens and events, which join on id. "
        'saa query "DESCRIBE runs" lists the columns of a table.'
    )
    command.add_argument("sql", metavar="SQL", help="one SELECT statement")
    store_option(command)
    command.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="form of the result; parquet needs --out (default: %(default)s)",
    )
    command.add_argument(
        "-o", "--out", metavar="FILE", help="write the result there (default: print it)"
    )
    command.add_argument(
        "--limit", type=int, default=ROWS, metavar="N", help="most rows (default: %(default)s)"
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=SECONDS,
        metavar="SECONDS",
        help="time after which the statement is stopped (default: %(default)s)",
    )
    command.set_defaults(run=_query)


def report(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument("trace", metavar="TRACE", help="trace file (.saa), or id in the store")
    _page_options(command)
    command.set_defaults(run=_report)


def present(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    from saa_core.deck import list_decks

    command.add_argument(
        "deck", metavar="DECK", help=f".toml file, or one that ships: {', '.join(list_decks())}"
    )
    _page_options(command)
    command.set_defaults(run=_present)


def _page_options(command: argparse.ArgumentParser) -> None:
    from saa_core.report import LANGUAGES

    command.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="HTML file to write; required"
    )
    command.add_argument(
        "--language",
        choices=LANGUAGES,
        default="en",
        help="language of the page's own words (default: %(default)s)",
    )
    store_option(command)


def _query(options: argparse.Namespace) -> None:
    if options.format == "parquet" and options.out is None:
        raise StoreError(
            "format='parquet' needs a file: give -o FILE, or choose table, csv or json"
        )
    from saa_core.store import Store

    store = Store(options.store)
    found = store.query(options.sql, limit=options.limit, timeout=options.timeout)
    for run, reason in store.broken().items():
        print(f"saa: {run}.saa is not among the runs: {reason}", file=sys.stderr)
    write = {"table": _table, "csv": _csv, "json": _json}.get(options.format)
    if options.out is None and write is not None:
        write(found, sys.stdout)
        return
    try:
        with replacing(Path(options.out)) as part:
            if write is None:
                _parquet(found, part)
            else:
                with part.open("w", encoding="utf-8", newline="") as out:
                    write(found, out)
    except OSError as error:
        raise StoreError(f"out={options.out!r} cannot be written: {error}") from error
    print(f"query: {options.out}, {found.num_rows:,} rows")


def _report(options: argparse.Namespace) -> None:
    from saa_core.report import write_report

    file = Path(options.trace)
    if file.suffix == ".saa":
        from saa_core.trace.trace import Trace

        trace = Trace.load(file)
    else:
        from saa_core.store import Store

        trace = Store(options.store).get(options.trace)
    out = write_report(trace, Path(options.out), language=options.language, name=file.stem)
    print(f"report: {out}")


def _present(options: argparse.Namespace) -> None:
    from saa_core.deck import find_deck, read_deck
    from saa_core.deck.page import write_deck
    from saa_core.store import Store

    store = Store(options.store)
    deck = read_deck(find_deck(options.deck), language=options.language, store=store)
    print(f"presentation: {write_deck(deck, Path(options.out))}, {len(deck.steps)} steps")


def _require_own_names(found: "pa.Table", form: str) -> None:
    """Raises StoreError where two columns have one name."""
    names = found.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StoreError(
            f"sql names two columns {', '.join(twice)}, which {form} cannot hold; name them with AS"
        )


def _parquet(found: "pa.Table", file: Path) -> None:
    _require_own_names(found, "Parquet")
    import pyarrow.parquet as pq

    pq.write_table(found, file, compression="zstd")


def _table(found: "pa.Table", out: TextIO) -> None:
    import pyarrow as pa

    numbers = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in found.schema.types]
    rows = [[_short(value) for value in row] for row in _rows(found)]
    sizes = [
        max(map(_width, (name, *(row[at] for row in rows))))
        for at, name in enumerate(found.column_names)
    ]

    def line(cells: Iterable[str]) -> str:
        padded = zip(cells, sizes, numbers, strict=True)
        return "  ".join(_padded(*cell) for cell in padded).rstrip()

    print(line(found.column_names), file=out)
    print(line("-" * size for size in sizes), file=out)
    for row in rows:
        print(line(row), file=out)
    print(f"({found.num_rows:,} rows)", file=out)


def _csv(found: "pa.Table", out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(found.column_names)
    for row in _rows(found):
        writer.writerow([dump_json(v) if isinstance(v, (list, dict)) else v for v in row])


def _json(found: "pa.Table", out: TextIO) -> None:
    """Numbers that are not finite are null."""
    _require_own_names(found, "JSON")
    rows = [dict(zip(found.column_names, row, strict=True)) for row in _rows(found)]
    print(dump_json(rows, ensure_ascii=False, indent=1, default=str), file=out)


def _rows(found: "pa.Table") -> Iterable[list[object]]:
    """Row by row; times as ISO 8601. By position: a SELECT may name two columns alike."""
    columns = [column.to_pylist() for column in found.columns]
    for row in zip(*columns, strict=True):
        yield [value.isoformat() if isinstance(value, datetime) else value for value in row]


def _short(value: object) -> str:
    """A cell on one line."""
    if value is None:
        return ""
    if isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _width(text: str) -> int:
    """Columns of a terminal: East Asian characters take two."""
    return sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def _padded(text: str, size: int, number: bool) -> str:
    gap = " " * (size - _width(text))
    return gap + text if number else text + gap
