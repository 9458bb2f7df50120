"""Several traces in one file, and back: a zip of trace files and ``notes.json``.

Archives may be hostile: names in an archive are never used as paths, and
nothing is unpacked that is not a trace of a bounded size.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa

from saa_core.errors import StoreError, TraceError
from saa_core.files import replacing
from saa_core.store import ids, notes
from saa_core.store.notes import Note
from saa_core.trace.check import check
from saa_core.trace.tables import tables
from saa_core.trace.trace import Trace

MOST_BYTES = 4 * 1024**3
"""Largest sum of the traces in a file that is imported."""
MOST_TRACES = 100_000
NOTES_BYTES = 64 * 1024**2
NOTES = "notes.json"


@dataclass(frozen=True)
class Imported:
    """Trace files by the id that they had, checked, each under a name of its own; and notes."""

    traces: Mapping[str, Path]
    notes: Mapping[str, Note]


def write(file: Path, traces: Mapping[str, Path], about: Mapping[str, Note]) -> Path:
    """Writes trace files and notes, by id; the file appears whole or not at all."""
    with replacing(file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NOTES, notes.dump_notes(about))
        for run, trace in traces.items():
            archive.write(trace, f"traces/{run}.saa")
    return file


def read(file: Path, folder: Path) -> Imported:
    """Unpacks into a folder and checks every trace.

    Raises:
        StoreError: the file is missing, broken, foreign or hostile.
    """
    try:
        with file.open("rb"):
            packed = zipfile.is_zipfile(file)
    except OSError as error:
        raise StoreError(
            f"file {str(file)!r} cannot be read: {error}; give a .saa or an exported .zip"
        ) from error
    if not packed:
        copy = folder / "0.saa"
        shutil.copyfile(file, copy)
        _check(copy, file.name)
        return Imported({file.stem if ids.is_id(file.stem) else ids.fresh(): copy}, {})
    try:
        with zipfile.ZipFile(file) as archive:
            return Imported(_unpack(archive, file, folder), _notes(archive, file))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"file {file.name} is damaged: {error}") from error


def _unpack(archive: zipfile.ZipFile, file: Path, folder: Path) -> dict[str, Path]:
    entries = [entry for entry in archive.infolist() if entry.filename != NOTES]
    if len(entries) > MOST_TRACES or sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise StoreError(
            f"file {file.name} is too large: at most {MOST_TRACES:,} traces of "
            f"{MOST_BYTES // 1024**3} GiB together are imported at once"
        )
    found = dict[str, Path]()
    for number, entry in enumerate(entries):
        name = PurePosixPath(entry.filename)
        own = entry.filename == f"traces/{name.stem}.saa" and ids.is_id(name.stem)
        if not own:
            raise StoreError(
                f"file {file.name} was not written by an export: it holds {entry.filename!r}"
            )
        if name.stem in found:
            raise StoreError(f"file {file.name} holds two traces of the id {name.stem!r}")
        part = folder / f"{number}.saa"
        with archive.open(entry) as source, part.open("wb") as target:
            _copy(source, target, entry.file_size, entry.filename)
        _check(part, entry.filename)
        found[name.stem] = part
    if not found:
        raise StoreError(f"file {file.name} holds no trace")
    return found


def _copy(source: IO[bytes], target: IO[bytes], size: int, name: str) -> None:
    """As many bytes as the archive announced, and no more."""
    left = size
    while block := source.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise StoreError(f"{name!r} is larger than the archive says")
        target.write(block)


def _check(part: Path, name: str) -> None:
    try:
        trace = Trace.load(part)
        check(trace, maps=True)
        tables(trace, "", None)
    except (TraceError, pa.ArrowException) as error:
        reason = str(error).replace(str(part), name)
        raise StoreError(f"{name!r} is no trace that can be read: {reason}") from error


def _notes(archive: zipfile.ZipFile, file: Path) -> dict[str, Note]:
    if NOTES not in archive.namelist():
        return {}
    if archive.getinfo(NOTES).file_size > NOTES_BYTES:
        raise StoreError(f"file {file.name} is too large: its notes")
    try:
        return notes.parse_notes(json.loads(archive.read(NOTES)))
    except ValueError as error:
        raise StoreError(f"file {file.name}: its notes cannot be read: {error}") from error
