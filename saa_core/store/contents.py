"""A store's folder on disk: who may write, which traces lie in it, and the index that follows them.

It knows nothing of notes and queries; those are the store's (store.py).
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from saa_core.errors import StoreError, TraceError
from saa_core.files import flush
from saa_core.store import ids
from saa_core.store.index import Index, Manifest
from saa_core.trace.check import check
from saa_core.trace.tables import Tables, concatenate, tables
from saa_core.trace.trace import Trace

BATCH = 256
"""Traces that are indexed at once where many are found."""
UNPACKED = ".import-"
"""Begins the names of folders into which imports unpack."""
TRIES = 20
"""A reader starts again if a writer replaced what it was reading."""


class Contents:
    """The traces of a folder and their index.

    Args:
        wait: how long a write waits for another writer, s.

    Raises:
        StoreError: the folder is a file or cannot be made.
    """

    def __init__(self, folder: Path, wait: float) -> None:
        self.folder = folder
        self.wait = wait
        self.staging = folder / ".writing"
        self.index = Index(folder, self.staging)
        self._unreadable = dict[str, tuple[int, str]]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"store {folder} cannot be made: {error}") from error

    def broken(self) -> dict[str, str]:
        """What is wrong with files that are no readable traces, by id."""
        there = self.files()
        return {run: reason for run, (_, reason) in self._unreadable.items() if run in there}

    def version(self) -> tuple[int, ...]:
        """Another value whenever a file of the folder was renamed into place or removed."""
        found = [self.folder.stat().st_mtime_ns]
        for name in ("store.json", "notes.json"):
            try:
                about = (self.folder / name).stat()
            except FileNotFoundError:
                found += [0, 0]
            else:
                found += [about.st_ino, about.st_mtime_ns]
        return tuple(found)

    def open(self, run: str) -> Trace:
        """Opens a trace of the folder and checks it.

        Raises:
            TraceError: its file is broken.
        """
        trace = Trace.load(self.folder / f"{run}.saa")
        check(trace)
        return trace

    @contextmanager
    def unpacking(self) -> Iterator[Path]:
        """An empty folder on the store's disk for one import. A lock inside is held as long as it is
        needed: what a killed import left is free, and goes with the next write."""
        folder = self.folder / f"{UNPACKED}{secrets.token_hex(8)}"
        own = FileLock(folder / ".lock")
        with self.writing():  # nobody else tidies up before the lock is held
            folder.mkdir()
            own.acquire()
        try:
            yield folder
        finally:
            own.release()
            shutil.rmtree(folder, ignore_errors=True)

    def files(self) -> dict[str, Path]:
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
    def writing(self, wait: float | None = None) -> Iterator[None]:
        """The only writer, with an empty folder for what is not finished."""
        seconds = self.wait if wait is None else wait
        with sentences(self.folder):
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=seconds)
            except Timeout as error:
                raise StoreError(
                    f"another process is writing to the store {self.folder}; it was waited for "
                    f"{seconds:g} s. Try again when it is done"
                ) from error
            try:
                shutil.rmtree(self.staging, ignore_errors=True)
                self.staging.mkdir(exist_ok=True)
                self.index.sweep()
                for old in self.folder.glob(f"{UNPACKED}*"):
                    if old.is_dir() and not old.is_symlink() and _free(old / ".lock"):
                        shutil.rmtree(old, ignore_errors=True)
                yield
            finally:
                shutil.rmtree(self.staging, ignore_errors=True)
                lock.release()

    def place(self, part: Path, run: str) -> None:
        """Gives a finished file its name: from here on the trace is in the store."""
        flush(part)
        os.replace(part, self.folder / f"{run}.saa")
        flush(self.folder)

    def recorded(self, run: str) -> datetime:
        return ids.recorded_at(self.folder / f"{run}.saa")

    def read(self, run: str) -> Tables | None:
        """The tables of a trace file; None if it is broken, which is remembered."""
        file = self.folder / f"{run}.saa"
        try:
            changed = file.stat().st_mtime_ns
        except OSError:
            return None  # deleted just now
        if self._unreadable.get(run, (0, ""))[0] == changed:
            return None
        try:
            return tables(self.open(run), run, self.recorded(run))
        except (TraceError, StoreError, OSError, pa.ArrowException) as error:
            self._unreadable[run] = (changed, str(error))
            return None

    def catch_up(self, fresh: Mapping[str, Tables], *, purge: bool = False) -> bool:
        """Brings the index up to the traces; the caller is the only writer.

        False where that fails. Nothing is lost then: readers read what is missing from the traces,
        and the next writer tries again.

        Args:
            purge: traces were deleted.
        """
        try:
            files = self.files()
            waiting = sorted(files.keys() - self.indexed(self.index.manifest()) - fresh.keys())
            rows = list(fresh.values())
            for start in range(0, max(len(waiting), 1), BATCH):
                found = map(self.read, waiting[start : start + BATCH])
                rows += [entry for entry in found if entry is not None]
                if rows or purge:
                    self.index.add(concatenate(rows), files)
                rows = []
        except (OSError, pa.ArrowException):
            return False
        return True

    def indexed(self, manifest: Manifest) -> set[str]:
        return {run for part in manifest.parts for run in self.index.ids(part) or ()}

    def known(self) -> tuple[Manifest, list[Tables]]:
        """The index that counts now, and the traces that it does not know yet, read from their files."""
        for _ in range(TRIES):
            files, manifest = self.files(), self.index.manifest()
            waiting = sorted(files.keys() - self.indexed(manifest))
            if manifest != self.index.manifest():
                continue  # its parts may be gone
            readable = (entry for entry in map(self.read, waiting) if entry is not None)
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
            with self.writing(wait=0):
                return self.catch_up({})
        except StoreError:
            return False


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
def sentences(place: Path) -> Iterator[None]:
    """A full or failing disk as a sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{place} cannot be written: {error}") from error
