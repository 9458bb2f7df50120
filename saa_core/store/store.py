"""The folder of traces itself: adding, opening, noting, deleting, querying; see the package."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from saa_core.errors import StoreError
from saa_core.files import flush, store_dir
from saa_core.store import exchange, ids, notes, queries, views
from saa_core.store.contents import TRIES, Contents, sentences
from saa_core.store.notes import Note
from saa_core.store.sql import select
from saa_core.trace.tables import SCHEMAS, Tables, concatenate, tables
from saa_core.trace.trace import Trace

WAIT = 10.0
"""Seconds that a writer waits for another one."""
ROWS = 1_000_000
"""Most rows of a query, unless more are asked for."""
SECONDS = 30.0
"""Longest time of a query, unless more is asked for."""


class Store:
    """A folder of traces.

    Args:
        folder: made if it does not exist; None is ``SAA_STORE`` or the user's data folder. A folder
            of bare ``.saa`` files becomes a store.
        wait: how long a write waits for another writer, s.

    Raises:
        StoreError: the folder is a file, cannot be made, or is of a later version.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, wait: float = WAIT) -> None:
        self.folder = store_dir() if folder is None else Path(folder)
        self._contents = Contents(self.folder, wait)
        self._contents.known()

    def ids(self) -> list[str]:
        """All traces, those with the earliest names first."""
        return sorted(self._contents.files())

    def version(self) -> tuple[int, ...]:
        """Another value whenever anything that a query sees has been written, by whichever process; for
        whoever keeps answers. Every write renames a file into the folder, or removes one."""
        return self._contents.version()

    def broken(self) -> Mapping[str, str]:
        """What is wrong with files of the folder that are no readable traces, by id."""
        self._contents.known()
        return self._contents.broken()

    def add(
        self, trace: Trace, *, note: str = "", tags: Iterable[str] = (), run: str | None = None
    ) -> str:
        """Writes a trace; it is stored, safe from a power cut, when this returns its id.

        Args:
            run: the id; None makes one of the time and chance. One of more bytes than a file's name
                may have is cut, at the end of a letter; what is returned counts.

        Raises:
            StoreError: the id is taken or not valid, the disk is full, or another process writes.
        """
        run = ids.fresh() if run is None else ids.fitted(run)
        about = notes.make_note(note, tags)
        with self._contents.writing():
            if run in self._contents.files():
                raise StoreError(f"run={run!r} is in the store already; choose another id")
            part = trace.save(self._contents.staging / f"{run}.saa")
            self._write_notes({run: about})
            self._contents.place(part, run)
            self._contents.catch_up({run: tables(trace, run, self._contents.recorded(run))})
        return run

    def add_missing(self, traces: Mapping[str, Trace]) -> None:
        """Writes those of some traces whose ids are not taken, all under one lock; what is there stays
        as it is. When this returns they are stored, safe from a power cut.

        Raises:
            StoreError: an id is not valid, the disk is full, or another process writes; the first
                ones may then be stored.
        """
        for run in traces:
            ids.valid(run)
        with self._contents.writing():
            taken, fresh = self._contents.files(), dict[str, Tables]()
            for run, trace in traces.items():
                if run not in taken:
                    self._contents.place(trace.save(self._contents.staging / f"{run}.saa"), run)
                    fresh[run] = tables(trace, run, self._contents.recorded(run))
            self._contents.catch_up(fresh)

    def __contains__(self, run: str) -> bool:
        """True if a trace of this id is in the store."""
        file = self.folder / f"{ids.valid(run)}.saa"
        return file.is_file() and not file.is_symlink()

    def get(self, run: str) -> Trace:
        """Opens a trace; its maps are read when asked for.

        Raises:
            StoreError: there is none of this id.
            TraceError: its file is broken.
        """
        self.path(run)
        return self._contents.open(run)

    def path(self, run: str) -> Path:
        """The file of a trace that is in the store.

        Raises:
            StoreError: there is none of this id.
        """
        if run not in self:
            raise StoreError(
                f"run={run!r} is not in the store {self.folder}; list the ids with: "
                'saa query "SELECT id FROM runs"'
            )
        return self.folder / f"{run}.saa"

    def delete(self, *runs: str) -> None:
        """Removes traces and what was written about them.

        Raises:
            StoreError: one of them is not in the store; then none is removed.
        """
        with self._contents.writing():
            for file in [self.path(run) for run in runs]:
                file.unlink(missing_ok=True)
            flush(self.folder)
            self._write_notes({})
            self._contents.catch_up({}, purge=True)

    def notes(self) -> dict[str, Note]:
        """What people wrote, by id; traces without a word have no entry."""
        return notes.read(self.folder / "notes.json")

    def note(self, run: str, note: str | None = None, *, tags: Iterable[str] | None = None) -> Note:
        """Writes a note, tags or both about a trace; None leaves one as it is. Returns both.

        Raises:
            StoreError: there is no such trace, or a tag is empty or has a comma.
        """
        with self._contents.writing():
            self.path(run)
            old = self.notes().get(run, Note())
            new = notes.make_note(
                old.note if note is None else note, old.tags if tags is None else tags
            )
            self._write_notes({run: new})
        return new

    def query(self, sql: str, *, limit: int = ROWS, timeout: float = SECONDS) -> pa.Table:
        """What a SELECT over the tables ``runs``, ``layers``, ``heads``, ``tokens`` and ``events``
        returns; they join on ``id`` (views.py lists the columns). Nothing can be written or reached.

        Args:
            limit: most rows.
            timeout: seconds.

        Raises:
            StoreError: the statement is no single SELECT, is wrong, or returns or takes too much.
        """
        for attempt in range(TRIES):
            before = self._contents.index.manifest()
            try:
                return select(sql, *self._relations(), limit=limit, timeout=timeout)
            except (StoreError, OSError) as error:
                replaced = self._contents.index.manifest() != before
                self._contents.index.forget()  # a part may have been damaged since it was looked at
                unreadable = isinstance(error, OSError)
                again = replaced or (unreadable and attempt == 0)
                if again and attempt < TRIES - 1:
                    continue
                if unreadable:
                    raise StoreError(f"store {self.folder} cannot be read: {error}") from error
                raise
        raise AssertionError("unreachable")

    def queries(self) -> dict[str, str]:
        """Statements that people saved, by name."""
        return queries.read(self.folder / "queries.json")

    def save_query(self, name: str, sql: str | None) -> None:
        """Saves a statement under a name; None removes it.

        Raises:
            StoreError: the name is empty or too long, or the statement cannot be run.
        """
        name = queries.check_name(name)
        if sql is not None:
            self.query(sql)
        with self._contents.writing():
            saved = {key: value for key, value in self.queries().items() if key != name}
            saved |= {} if sql is None else {name: sql}
            queries.write(self.folder / "queries.json", saved, self._contents.staging)

    def export(self, runs: Sequence[str], file: str | os.PathLike[str]) -> Path:
        """Writes traces, with what was written about them, to one file that `import_` reads.

        Raises:
            StoreError: one of them is not in the store, or the disk is full.
        """
        files, about, target = {run: self.path(run) for run in runs}, self.notes(), Path(file)
        with sentences(target):
            return exchange.write(target, files, {run: about[run] for run in runs if run in about})

    def import_(self, file: str | os.PathLike[str]) -> tuple[str, ...]:
        """Adds the traces of a file: one that `export` wrote, or a single ``.saa``. Returns their ids.

        Every trace is read and checked before the first one is added. One that is in the store
        already stays as it is; another trace of the same id gets a new one.

        Raises:
            StoreError: the file is missing, broken, foreign or hostile; then nothing is added.
        """
        with sentences(self.folder), self._contents.unpacking() as folder:
            found = exchange.read(Path(file), folder)  # may take minutes: others go on writing
            for part in found.traces.values():
                flush(part)
            with self._contents.writing():
                taken, there, parts = self._contents.files(), list[str](), dict[str, Path]()
                about = dict[str, Note]()
                for run, part in found.traces.items():
                    if run in taken and part.read_bytes() == taken[run].read_bytes():
                        there.append(run)
                        continue
                    own = ids.fresh() if run in taken else run
                    parts[own], about[own] = part, found.notes.get(run, Note())
                self._write_notes(about)
                for run, part in parts.items():
                    self._contents.place(part, run)
                self._contents.catch_up({})
        return (*there, *parts)

    def _write_notes(self, fresh: Mapping[str, Note]) -> None:
        """Notes of what is in the store, and of what is about to be."""
        old, files = self.notes(), self._contents.files()
        new = {run: note for run, note in old.items() if run in files} | dict(fresh)
        new = {run: note for run, note in new.items() if note != Note()}
        if new != old:
            notes.write(self.folder / "notes.json", new, self._contents.staging)

    def _relations(self) -> tuple[dict[str, object], dict[str, str]]:
        """Tables and views for a query."""
        files, about = self._contents.files(), self.notes()
        manifest, waiting = self._contents.known()
        fresh = concatenate(waiting)
        gone = self._contents.indexed(manifest) - files.keys()
        parts = {name: self._contents.index.files(manifest, name) for name in SCHEMAS}
        return views.relations(parts, fresh, about, gone), views.views(with_gone=bool(gone))
