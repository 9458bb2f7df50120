"""Where SAA keeps its files, and how it writes one: whole under a temporary name, then renamed."""

import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from saa_core.errors import SAAError

Read = TypeVar("Read")


def cache_dir() -> Path:
    """Models, texts, compiled kernels: ``SAA_CACHE``, or the platform's user cache directory."""
    return Path(os.environ.get("SAA_CACHE") or platformdirs.user_cache_dir("saa"))


def store_dir() -> Path:
    """Where recorded traces are kept: ``SAA_STORE``, or the platform's user data directory."""
    return Path(os.environ.get("SAA_STORE") or Path(platformdirs.user_data_dir("saa")) / "traces")


LONGEST_NAME = 255
"""Bytes of a file's name that common file systems hold."""


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A temporary file that takes the name ``path`` when the block ends without an error.

    A reader sees the old content or the new one, never a part; so it is after a power cut.

    Args:
        folder: where the temporary file lies, on the same disk; None is beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _fresh(folder or path.parent, path.name)
    # The rights of any file that is made here. To ask for the umask one would have to change it, for
    # all threads of the process.
    rights = stat.S_IMODE(part.stat().st_mode)
    try:
        yield part
        part.chmod(rights)  # who writes may have put another file in its place
        flush(part)
        os.replace(part, path)
        flush(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _fresh(folder: Path, name: str) -> Path:
    """A new empty file; as with mkstemp nobody else has its name, but its rights follow the umask."""
    start = shorten(name, LONGEST_NAME - 18)
    while True:
        part = folder / f".{start}-{secrets.token_hex(8)}"
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return part


def shorten(name: str, most: int) -> str:
    """The beginning of a name, of so many bytes at most; a character is not cut in two."""
    return os.fsencode(name)[:most].decode(errors="ignore")


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # elsewhere a folder cannot be opened
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, dump_json(value, indent=1))


def read_known(folders: Iterable[Path], read: Callable[[Path], Iterable[Read]]) -> Iterator[Read]:
    """What the JSON files of folders hold, those that ship beside one's own; a file that cannot be read is as if
    it was not there, for what a run can do without.

    Args:
        read: of one file; raises SAAError.
    """
    for folder in folders:
        for file in sorted(folder.glob("*.json")):
            with suppress(SAAError):
                yield from read(file)


def dump_json(value: object, **options: Any) -> str:
    """JSON that every reader takes: null for a number that is not finite, which JSON cannot hold.

    Args:
        options: of :func:`json.dumps`.
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
