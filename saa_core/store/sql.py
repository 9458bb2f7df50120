"""One SELECT of a user's over Arrow tables, in a sandbox.

The database lives in memory and sees the tables it is given, nothing else: no file, no network, no
extension, no Python variable, no setting to change.
"""

import threading
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from saa_core.errors import StoreError

MEMORY = "1GB"
"""Most memory of a query inside the database."""
RESULT_BYTES = 512 * 1024 * 1024
"""Most bytes that a query may return."""
CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "max_temp_directory_size": "0MB",
    "memory_limit": MEMORY,
    "python_enable_replacements": "false",
    "temp_directory": "",
}


def select(
    sql: str, tables: Mapping[str, Any], views: Mapping[str, str], *, limit: int, timeout: float
) -> pa.Table:
    """What a SELECT returns.

    Args:
        tables: Arrow tables or datasets by name.
        views: SQL by name, made before the user's statement is read.
        limit: most rows.
        timeout: seconds.

    Raises:
        StoreError: the statement is no single SELECT, is wrong, or returns or takes too much.
    """
    with duckdb.connect(":memory:", config=dict(CONFIG)) as database:
        for name, table in tables.items():
            database.register(name, table)
        for name, view in views.items():
            database.execute(f"CREATE VIEW {name} AS {view}")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        alarm = threading.Timer(timeout, database.interrupt)
        alarm.daemon = True
        alarm.start()
        try:
            return _fetch(database, _statement(database, sql), limit)
        except duckdb.InterruptException as error:
            raise StoreError(
                f"sql took more than {timeout:g} s and was stopped; select fewer rows"
            ) from error
        except (duckdb.Error, pa.ArrowInvalid) as error:
            raise StoreError(f"sql cannot be run: {error}") from error
        finally:
            alarm.cancel()


def quoted(value: str) -> str:
    """A text as it stands in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _statement(database: duckdb.DuckDBPyConnection, sql: str) -> Any:
    statements = database.extract_statements(sql)
    kinds = [statement.type for statement in statements]
    if kinds != [duckdb.StatementType.SELECT]:
        came = ", ".join(kind.name for kind in kinds) or "nothing"
        raise StoreError(f"sql must be one SELECT statement, and came as: {came}")
    return statements[0]


def _fetch(database: duckdb.DuckDBPyConnection, statement: Any, limit: int) -> pa.Table:
    reader = database.sql(statement).to_arrow_reader(10_000)
    batches, rows, size = [], 0, 0
    for batch in reader:
        rows += batch.num_rows
        size += batch.nbytes
        if rows > limit:
            raise StoreError(f"sql returns more than {limit:,} rows; add a LIMIT or an aggregate")
        if size > RESULT_BYTES:
            raise StoreError(
                f"sql returns more than {RESULT_BYTES // 2**20} MiB; select fewer columns or rows"
            )
        batches.append(batch)
    return pa.Table.from_batches(batches, reader.schema)
