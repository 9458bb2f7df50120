"""Ids of traces: names of files, never paths."""

import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from saa_core.errors import StoreError
from saa_core.files import LONGEST_NAME, shorten

FORM = re.compile(r"\w[\w .+-]{0,119}")
MOST_BYTES = LONGEST_NAME - len(".saa")
STAMP = re.compile(r"(\d{8})[T-](\d{6})(Z?)-")


def is_id(run: object) -> bool:
    formed = isinstance(run, str) and FORM.fullmatch(run) is not None
    return formed and len(os.fsencode(str(run))) <= MOST_BYTES


def valid(run: str) -> str:
    """An id as it came, if it can be one.

    Raises:
        StoreError: it cannot.
    """
    if not is_id(run):
        raise StoreError(
            f"run={run!r} is no id of a trace: it must begin with a letter or digit and hold only "
            f"letters, digits, spaces and . _ + -, 120 at most, of {MOST_BYTES} bytes together"
        )
    return run


def fitted(run: str) -> str:
    """An id whose file's name the disk holds: where 120 letters are too many bytes, its beginning.

    Raises:
        StoreError: it cannot be an id whatever its length in bytes.
    """
    return valid(shorten(run, MOST_BYTES) if FORM.fullmatch(str(run)) else run)


def fresh() -> str:
    """A new id: the time (UTC) and chance."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def time_of(run: str) -> datetime | None:
    """When a trace was recorded, if its id says so."""
    stamp = STAMP.match(run)
    if stamp is None:
        return None
    day, time, utc = stamp.groups()
    try:
        found = datetime.strptime(day + time, "%Y%m%d%H%M%S")
    except ValueError:
        return None
    # Names without a Z were written in local time.
    return found.replace(tzinfo=UTC) if utc else found.astimezone(UTC)


def name_of(stem: str) -> str:
    """What of a name follows the time."""
    stamp = STAMP.match(stem)
    return stem if stamp is None else stem[stamp.end() :]


def recorded_at(file: Path) -> datetime:
    """When a trace file was recorded: by its name, or by its age."""
    return time_of(file.stem) or datetime.fromtimestamp(file.stat().st_mtime, UTC)
