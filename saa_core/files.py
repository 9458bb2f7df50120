"""Where SAA keeps its files, and how it writes one: whole under a temporary name, then renamed."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Models, texts, compiled kernels: ``SAA_CACHE``, or the platform's user cache directory."""
    return Path(os.environ.get("SAA_CACHE") or platformdirs.user_cache_dir("saa"))


def store_dir() -> Path:
    """Where recorded traces are kept: ``SAA_STORE``, or the platform's user data directory."""
    return Path(os.environ.get("SAA_STORE") or Path(platformdirs.user_data_dir("saa")) / "traces")


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A temporary file that takes the name ``path`` when the block ends without an error.

    A reader sees the old content or the new one, never a part; so it is after a power cut.

    Args:
        folder: where the temporary file lies, on the same disk; None is beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder or path.parent, prefix=f".{path.name}-")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        # mkstemp is for the owner only; a finished file has the rights of any other.
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        flush(part)
        os.replace(part, path)
        flush(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
    write_text(path, json.dumps(value, indent=1))
