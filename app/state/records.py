"""The store of traces as the pages see it: one store for all visitors, runs that are opened or kept."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import streamlit as st

from app.live.values import Result
from app.state import address as link
from app.state import session
from saa_core.files import store_dir
from saa_core.store import Store
from saa_core.store.sql import quoted

T = TypeVar("T")
LISTED = 10_000
"""Most rows that a table of the page holds."""
SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Opened:
    """A run of the store: what came out, when it was recorded, and what was written about it."""

    result: Result
    recorded: datetime
    note: str


@st.cache_resource(show_spinner=False)
def _store(folder: Path) -> Store:
    return Store(folder)


def store() -> Store:
    """Raises StoreError; see :class:`saa_core.store.Store`."""
    return _store(store_dir())


def select(sql: str) -> pa.Table:
    """What a statement of a visitor's returns; of columns with one name the later ones are numbered.
    Raises StoreError."""
    found = store().query(sql, limit=LISTED, timeout=SECONDS)
    return found.rename_columns(_told_apart(found.column_names))


def _told_apart(names: list[str]) -> list[str]:
    """``id``, ``id (2)``, ``id (3)`` for three columns of the name ``id``."""
    found: list[str] = []
    for name in names:
        own, number = name, 1
        while own in found or (number > 1 and own in names):
            number += 1
            own = f"{name} ({number})"
        found.append(own)
    return found


def answer(ask: Callable[..., T], *arguments: object, **options: object) -> T:
    """What a question to the store answers, asked once for all visitors until something is written there.

    Args:
        ask: a function whose first argument is the store.

    Raises:
        StoreError: see ``ask``.
    """
    found: T = _answer(ask.__name__, store_dir(), store().version(), arguments, options, ask)
    return found


@st.cache_data(show_spinner=False, max_entries=256)
def _answer(
    name: str,
    folder: Path,
    version: tuple[int, ...],
    arguments: tuple[object, ...],
    options: dict[str, object],
    _ask: Callable[..., T],
) -> T:
    return _ask(store(), *arguments, **options)


def open_run(run: str) -> Opened:
    """A run of the store with the recorded dense run of its text, kept for this visitor.

    Raises:
        StoreError, TraceError: there is none of this id, or its file is broken.
    """
    kept: tuple[str, Opened] | None = st.session_state.get("opened")
    if kept is not None and kept[0] == run:
        return kept[1]
    trace = store().get(run)
    sql = f"SELECT recorded, note, dense_id FROM runs WHERE id = {quoted(run)}"
    (about,) = store().query(sql).to_pylist()
    dense = None if about["dense_id"] is None else store().get(about["dense_id"])
    opened = Opened(session.recorded_result(trace, run, dense), about["recorded"], about["note"])
    st.session_state["opened"] = (run, opened)
    return opened


def export_runs(runs: list[str]) -> bytes:
    """The file that `Store.import_` reads. Raises StoreError."""
    with tempfile.TemporaryDirectory() as folder:
        return store().export(runs, Path(folder) / "saa-traces.zip").read_bytes()


def show(run: str) -> None:
    """From now on every page shows this run of the store."""
    st.session_state["stored"] = run


def close() -> None:
    """Back to live runs."""
    st.session_state.pop("stored", None)
    link.write(trace=None)


def keep(result: Result) -> str:
    """Adds both sides of a live result to the store; the id of the one with SAA.

    Raises:
        StoreError: the store cannot be written.
    """
    kept = st.session_state.setdefault("kept", {})
    if result.dense is not None and id(result.dense) not in kept:
        kept[id(result.dense)] = (result.dense, store().add(result.dense))
    run = store().add(result.trace)
    kept[id(result.trace)] = (result.trace, run)
    return run


def kept_as(result: Result) -> str | None:
    """The id under which this visitor has kept a result."""
    found = st.session_state.get("kept", {}).get(id(result.trace))
    return None if found is None or found[1] not in store().ids() else found[1]
