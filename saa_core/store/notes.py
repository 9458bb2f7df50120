"""What people wrote about traces: a note and tags by id, in ``notes.json``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from saa_core.errors import StoreError
from saa_core.files import replacing

LONGEST_TAG = 100


@dataclass(frozen=True)
class Note:
    """What a person wrote about a trace."""

    note: str = ""
    tags: tuple[str, ...] = ()


def make_note(note: str, tags: Iterable[str]) -> Note:
    """A note with its tags in order, each once.

    Raises:
        StoreError: a tag is empty, too long or has a comma.
    """
    found = tuple(sorted({tag.strip() for tag in ([tags] if isinstance(tags, str) else tags)}))
    for tag in found:
        if not tag or "," in tag or len(tag) > LONGEST_TAG:
            raise StoreError(
                f"tags: {tag!r} must have 1 to {LONGEST_TAG} characters and no comma, for example "
                "'demo'"
            )
    return Note(note, found)


def parse_notes(raw: object) -> dict[str, Note]:
    """Notes from JSON. Raises ValueError where it has another form."""
    if not isinstance(raw, dict):
        raise ValueError("no object")
    found = dict[str, Note]()
    for run, entry in raw.items():
        try:
            note, tags = entry["note"], entry["tags"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{run!r} has no note and tags") from error
        if not isinstance(note, str) or not isinstance(tags, list):
            raise ValueError(f"{run!r}: note or tags are of another type")
        found[run] = make_note(note, map(str, tags))
    return found


def dump_notes(notes: Mapping[str, Note]) -> str:
    """Notes as JSON."""
    about = {run: asdict(note) for run, note in sorted(notes.items())}
    return json.dumps(about, ensure_ascii=False, indent=1)


def read(file: Path) -> dict[str, Note]:
    """Raises StoreError if the file is broken; without a file there are none."""
    try:
        return parse_notes(json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, StoreError) as error:
        raise StoreError(f"{file} cannot be read ({error}); repair it or move it away") from error


def write(file: Path, notes: Mapping[str, Note], staging: Path) -> None:
    with replacing(file, staging) as part:
        part.write_text(dump_notes(notes), encoding="utf-8")
