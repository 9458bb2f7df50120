"""Bounds what a visit holds in memory: the maps of its oldest runs lie on disk, and are read when they are asked for.

Maps are most of a trace; what else is in it stays in memory, so that a run is the same value as before.
A file is gone with the last trace that reads it, and the folder with the process.
"""

import atexit
import contextlib
import functools
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

import saa_core as saa
from app.live.values import Compared, GuardTrialResult, Result
from saa_core.trace.maps import InMemory, OnDisk

MOST_BYTES = 64 * 2**20
"""Most that one visitor's runs of one kind (results, sides of a comparison, trials) hold in memory."""
TRACES: dict[type, tuple[str, ...]] = {
    Result: ("trace", "dense"),
    GuardTrialResult: ("blind", "guarded"),
    Compared: ("traces",),
}
"""Which fields of what is kept hold traces."""

T = TypeVar("T")
_lock = threading.Lock()
_written: dict[int, tuple["weakref.ref[InMemory]", "weakref.ref[OnDisk]"]] = {}
"""By id of maps in memory: they, and where they lie on disk; while both are in use."""


def bound(kept: dict[Any, Any], most: int, most_bytes: int | None = None) -> None:
    """Leaves the last few entries of what is kept, and of them so many bytes in memory: maps go to disk,
    the oldest first; what is then still too much is forgotten, but for the last entry.

    Args:
        kept: traces, or values of the kinds in TRACES, the oldest first.
        most: entries.
        most_bytes: MOST_BYTES by default.
    """
    limit = MOST_BYTES if most_bytes is None else most_bytes
    for old in list(kept)[:-most]:
        del kept[old]
    with contextlib.suppress(OSError, SafetensorError):  # no room on the disk either
        for key in list(kept):
            if held(kept.values()) <= limit:
                return
            kept[key] = to_disk(kept[key])
    for old in list(kept)[:-1]:
        if held(kept.values()) <= limit:
            return
        del kept[old]


def bounded(value: T, most_bytes: int | None = None) -> T:
    """One value, with its maps on disk where they are more than MOST_BYTES."""
    kept = {None: value}
    bound(kept, 1, most_bytes)
    return kept[None]


def held(values: Iterable[Any]) -> int:
    """Bytes that traces hold in memory; one that several values share counts once."""
    return sum({id(trace): trace.nbytes for value in values for trace in _traces(value)}.values())


def to_disk(value: T) -> T:
    """The same with maps that lie on disk. Raises OSError, SafetensorError: they cannot be written."""
    return _with_traces(value, _on_disk)


def _traces(value: Any) -> Iterator[saa.Trace]:
    if isinstance(value, saa.Trace):
        yield value
    parts = value if isinstance(value, tuple) else _fields(value).values()
    for part in parts:
        yield from _traces(part)


def _with_traces(value: Any, change: Callable[[saa.Trace], saa.Trace]) -> Any:
    if isinstance(value, saa.Trace):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_with_traces(part, change) for part in value)
    parts = _fields(value)
    changed = {name: _with_traces(part, change) for name, part in parts.items()}
    return replace(value, **changed) if parts else value


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in TRACES.get(type(value), ())}


def _on_disk(trace: saa.Trace) -> saa.Trace:
    layers = trace.layers
    if not isinstance(layers, InMemory):
        return trace
    with _lock:
        for key, known in list(_written.items()):
            if None in (known[0](), known[1]()):
                del _written[key]
        found = _written.get(id(layers))
        disk = None if found is None else found[1]()
        if disk is None:
            file = _folder() / f"{uuid.uuid4().hex}.saa"
            trace.save(file)
            disk = OnDisk(file)
            weakref.finalize(disk, file.unlink, missing_ok=True)
            _written[id(layers)] = weakref.ref(layers), weakref.ref(disk)
    return replace(trace, layers=disk)


@functools.cache
def _folder() -> Path:
    """Of this process; it is removed at the end."""
    folder = tempfile.mkdtemp(prefix="saa-results-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
