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
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name when the block ends without an error.

    A reader sees the old content or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        # mkstemp is for the owner only; a finished file has the rights of any other.
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1))
