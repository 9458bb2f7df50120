"""The folder of traces itself: adding, opening, noting, deleting, querying; see the package."""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from saa_core.errors import StoreError, TraceError
from saa_core.files import flush, store_dir
from saa_core.store import exchange, ids, notes, queries, views
from saa_core.store.index import Index, Manifest
from saa_core.store.notes import Note
from saa_core.store.sql import select
from saa_core.trace.check import check
from saa_core.trace.tables import SCHEMAS, Tables, concatenate, tables
from saa_core.trace.trace import Trace

WAIT = 10.0
"""Seconds that a writer waits for another one."""
ROWS = 1_000_000
"""Most rows of a query, unless more are asked for."""
SECONDS = 30.0
"""Longest time of a query, unless more is asked for."""
BATCH = 256
"""Traces that are indexed at once where many are found."""
UNPACKED = ".import-"
"""Begins the names of folders into which imports unpack."""
TRIES = 20
"""A reader starts again if a writer replaced what it was reading."""


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
        self.wait = wait
        self._staging = self.folder / ".writing"
        self._index = Index(self.folder, self._staging)
        self._broken = dict[str, tuple[int, str]]()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"store {self.folder} cannot be made: {error}") from error
        self._known()

    def ids(self) -> list[str]:
        """All traces, those with the earliest names first."""
        return sorted(self._files())

    def version(self) -> tuple[int, ...]:
        """Another value whenever anything that a query sees has been written, by whichever process; for
        whoever keeps answers. Every write renames a file into the folder, or removes one."""
        found = [self.folder.stat().st_mtime_ns]
        for name in ("store.json", "notes.json"):
            try:
                about = (self.folder / name).stat()
            except FileNotFoundError:
                found += [0, 0]
            else:
                found += [about.st_ino, about.st_mtime_ns]
        return tuple(found)

    def broken(self) -> Mapping[str, str]:
        """What is wrong with files of the folder that are no readable traces, by id."""
        self._known()
        return {run: reason for run, (_, reason) in self._broken.items() if run in self._files()}

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
        with self._writing():
            if run in self._files():
                raise StoreError(f"run={run!r} is in the store already; choose another id")
            part = trace.save(self._staging / f"{run}.saa")
            self._write_notes({run: about})
            self._place(part, run)
            self._catch_up({run: tables(trace, run, self._recorded(run))})
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
        with self._writing():
            taken, fresh = self._files(), dict[str, Tables]()
            for run, trace in traces.items():
                if run not in taken:
                    self._place(trace.save(self._staging / f"{run}.saa"), run)
                    fresh[run] = tables(trace, run, self._recorded(run))
            self._catch_up(fresh)

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
        trace = Trace.load(self.path(run))
        check(trace)
        return trace

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
        with self._writing():
            for file in [self.path(run) for run in runs]:
                file.unlink(missing_ok=True)
            flush(self.folder)
            self._write_notes({})
            self._catch_up({}, purge=True)

    def notes(self) -> dict[str, Note]:
        """What people wrote, by id; traces without a word have no entry."""
        return notes.read(self.folder / "notes.json")

    def note(self, run: str, note: str | None = None, *, tags: Iterable[str] | None = None) -> Note:
        """Writes a note, tags or both about a trace; None leaves one as it is. Returns both.

        Raises:
            StoreError: there is no such trace, or a tag is empty or has a comma.
        """
        with self._writing():
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
            before = self._index.manifest()
            try:
                return select(sql, *self._relations(), limit=limit, timeout=timeout)
            except (StoreError, OSError) as error:
                replaced = self._index.manifest() != before
                self._index.forget()  # a part may have been damaged since it was looked at
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
        with self._writing():
            saved = {key: value for key, value in self.queries().items() if key != name}
            saved |= {} if sql is None else {name: sql}
            queries.write(self.folder / "queries.json", saved, self._staging)

    def export(self, runs: Sequence[str], file: str | os.PathLike[str]) -> Path:
        """Writes traces, with what was written about them, to one file that `import_` reads.

        Raises:
            StoreError: one of them is not in the store, or the disk is full.
        """
        files, about, target = {run: self.path(run) for run in runs}, self.notes(), Path(file)
        with _sentences(target):
            return exchange.write(target, files, {run: about[run] for run in runs if run in about})

    def import_(self, file: str | os.PathLike[str]) -> tuple[str, ...]:
        """Adds the traces of a file: one that `export` wrote, or a single ``.saa``. Returns their ids.

        Every trace is read and checked before the first one is added. One that is in the store
        already stays as it is; another trace of the same id gets a new one.

        Raises:
            StoreError: the file is missing, broken, foreign or hostile; then nothing is added.
        """
        with _sentences(self.folder), self._unpacking() as folder:
            found = exchange.read(Path(file), folder)  # may take minutes: others go on writing
            for part in found.traces.values():
                flush(part)
            with self._writing():
                taken, there, parts = self._files(), list[str](), dict[str, Path]()
                about = dict[str, Note]()
                for run, part in found.traces.items():
                    if run in taken and part.read_bytes() == taken[run].read_bytes():
                        there.append(run)
                        continue
                    own = ids.fresh() if run in taken else run
                    parts[own], about[own] = part, found.notes.get(run, Note())
                self._write_notes(about)
                for run, part in parts.items():
                    self._place(part, run)
                self._catch_up({})
        return (*there, *parts)

    @contextmanager
    def _unpacking(self) -> Iterator[Path]:
        """An empty folder on the store's disk for one import. A lock inside is held as long as it is
        needed: what a killed import left is free, and goes with the next write."""
        folder = self.folder / f"{UNPACKED}{secrets.token_hex(8)}"
        own = FileLock(folder / ".lock")
        with self._writing():  # nobody else tidies up before the lock is held
            folder.mkdir()
            own.acquire()
        try:
            yield folder
        finally:
            own.release()
            shutil.rmtree(folder, ignore_errors=True)

    def _files(self) -> dict[str, Path]:
        """Trace files by id; links and names that are no ids do not count."""
        with os.scandir(self.folder) as entries:
            return {
                entry.name[:-4]: Path(entry.path)
                for entry in entries
                if entry.name.endswith(".saa")
                and ids.is_id(entry.name[:-4])
                and entry.is_file(follow_symlinks=False)
            }

    @contextmanager
    def _writing(self, wait: float | None = None) -> Iterator[None]:
        """The only writer, with an empty folder for what is not finished."""
        seconds = self.wait if wait is None else wait
        with _sentences(self.folder):
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=seconds)
            except Timeout as error:
                raise StoreError(
                    f"another process is writing to the store {self.folder}; it was waited for "
                    f"{seconds:g} s. Try again when it is done"
                ) from error
            try:
                shutil.rmtree(self._staging, ignore_errors=True)
                self._staging.mkdir(exist_ok=True)
                self._index.sweep()
                for old in self.folder.glob(f"{UNPACKED}*"):
                    if old.is_dir() and not old.is_symlink() and _free(old / ".lock"):
                        shutil.rmtree(old, ignore_errors=True)
                yield
            finally:
                shutil.rmtree(self._staging, ignore_errors=True)
                lock.release()

    def _place(self, part: Path, run: str) -> None:
        """Gives a finished file its name: from here on the trace is in the store."""
        flush(part)
        os.replace(part, self.folder / f"{run}.saa")
        flush(self.folder)

    def _write_notes(self, fresh: Mapping[str, Note]) -> None:
        """Notes of what is in the store, and of what is about to be."""
        old, files = self.notes(), self._files()
        new = {run: note for run, note in old.items() if run in files} | dict(fresh)
        new = {run: note for run, note in new.items() if note != Note()}
        if new != old:
            notes.write(self.folder / "notes.json", new, self._staging)

    def _recorded(self, run: str) -> datetime:
        return ids.recorded_at(self.folder / f"{run}.saa")

    def _read(self, run: str) -> Tables | None:
        """The tables of a trace file; None if it is broken, which is remembered."""
        file = self.folder / f"{run}.saa"
        try:
            changed = file.stat().st_mtime_ns
        except OSError:
            return None  # deleted just now
        if self._broken.get(run, (0, ""))[0] == changed:
            return None
        try:
            return tables(self.get(run), run, self._recorded(run))
        except (TraceError, StoreError, OSError, pa.ArrowException) as error:
            self._broken[run] = (changed, str(error))
            return None

    def _catch_up(self, fresh: Mapping[str, Tables], *, purge: bool = False) -> bool:
        """Brings the index up to the traces; the caller is the only writer.

        False where that fails. Nothing is lost then: readers read what is missing from the traces,
        and the next writer tries again.

        Args:
            purge: traces were deleted.
        """
        try:
            files = self._files()
            waiting = sorted(files.keys() - self._indexed(self._index.manifest()) - fresh.keys())
            rows = list(fresh.values())
            for start in range(0, max(len(waiting), 1), BATCH):
                found = map(self._read, waiting[start : start + BATCH])
                rows += [entry for entry in found if entry is not None]
                if rows or purge:
                    self._index.add(concatenate(rows), files)
                rows = []
        except (OSError, pa.ArrowException):
            return False
        return True

    def _indexed(self, manifest: Manifest) -> set[str]:
        return {run for part in manifest.parts for run in self._index.ids(part) or ()}

    def _known(self) -> tuple[Manifest, list[Tables]]:
        """The index that counts now, and the traces that it does not know yet, read from their files."""
        for _ in range(TRIES):
            files, manifest = self._files(), self._index.manifest()
            waiting = sorted(files.keys() - self._indexed(manifest))
            if manifest != self._index.manifest():
                continue  # its parts may be gone
            readable = (entry for entry in map(self._read, waiting) if entry is not None)
            found = list(islice(readable, BATCH))
            if not found:
                return manifest, []
            if self._try_to_catch_up():
                continue
            return manifest, [*found, *readable]
        raise StoreError(f"the store {self.folder} changes faster than it can be read; try again")

    def _try_to_catch_up(self) -> bool:
        """Writes the index if nobody else writes and the folder can be written."""
        try:
            with self._writing(wait=0):
                return self._catch_up({})
        except StoreError:
            return False

    def _relations(self) -> tuple[dict[str, object], dict[str, str]]:
        """Tables and views for a query."""
        files, about = self._files(), self.notes()
        manifest, waiting = self._known()
        fresh = concatenate(waiting)
        gone = self._indexed(manifest) - files.keys()
        parts = {name: self._index.files(manifest, name) for name in SCHEMAS}
        return views.relations(parts, fresh, about, gone), views.views(with_gone=bool(gone))


def _free(file: Path) -> bool:
    """True if nobody holds this lock."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


@contextmanager
def _sentences(place: Path) -> Iterator[None]:
    """A full or failing disk as a sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{place} cannot be written: {error}") from error
