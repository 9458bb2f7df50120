"""Queries that people saved, by name, in ``queries.json``."""

import json
from collections.abc import Mapping
from pathlib import Path

from saa_core.errors import StoreError
from saa_core.files import replacing

LONGEST_NAME = 80


def read(file: Path) -> dict[str, str]:
    """Raises StoreError if the file is broken; without a file there are none."""
    try:
        raw = json.loads(file.read_text("utf-8"))
        if not isinstance(raw, dict) or not all(isinstance(sql, str) for sql in raw.values()):
            raise ValueError("not names with statements")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}); repair it or move it away") from error
    return raw


def check_name(name: str) -> str:
    """A name without blanks around it. Raises StoreError if nothing is left or it is too long."""
    if not 1 <= len(name.strip()) <= LONGEST_NAME:
        raise StoreError(f"name={name!r} must have 1 to {LONGEST_NAME} characters")
    return name.strip()


def write(file: Path, queries: Mapping[str, str], staging: Path) -> None:
    with replacing(file, staging) as part:
        about = dict(sorted(queries.items()))
        part.write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
