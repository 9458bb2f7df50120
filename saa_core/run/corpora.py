"""Texts of a user's files, one after the other: rows of a table, or windows of a plain text.

However long a file is, only a part of it is in memory.
"""

from collections.abc import Iterator
from pathlib import Path

from saa_core.data import tables
from saa_core.errors import PolicyError, TextError
from saa_core.model import Model

PIECE = 1_000_000
"""Characters of a plain text file that are cut at once."""


def texts_of(model: Model, file: Path, column: str = "text", length: int = 512) -> Iterator[str]:
    """The texts of one file.

    Args:
        file: a table (see data/tables.py); anything else is plain text, cut into windows.
        column: of a table.
        length: tokens per window; the last and shorter one is left out.

    Raises:
        TextError: the file cannot be read, lacks the column, has a row without a text, or is a plain
            text shorter than one window.
        PolicyError: the model takes no windows of this length.
    """
    if tables.is_table(file):
        yield from tables.read_column(file, column)
        return
    count, rest = 0, ""
    try:
        with file.open(encoding="utf-8") as stream:
            while piece := stream.read(PIECE):
                found, rest = split_windows(model, rest + piece, length)
                count += len(found)
                yield from found
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{file} cannot be read as UTF-8 text: {error}") from error
    if not count:
        raise TextError(f"{file} has fewer than one window of {length} tokens")


def cut_windows(model: Model, text: str, length: int) -> list[str]:
    """A long text in parts of so many tokens, the last and shorter one left out.

    Raises:
        TextError: the text is shorter than one window.
        PolicyError: the model takes no windows of this length.
    """
    found, _ = split_windows(model, text, length)
    if not found:
        raise TextError(f"text has fewer than one window of {length} tokens")
    return found


def split_windows(model: Model, text: str, length: int) -> tuple[list[str], str]:
    """Windows of so many tokens, and the rest of the text, which is shorter than one.

    Raises:
        PolicyError: the model takes no windows of this length.
    """
    if not 8 <= length <= model.max_length:
        raise PolicyError(f"--length={length} must be from 8 to {model.max_length} tokens")
    known = model.tokenizer(
        text, return_offsets_mapping=True, add_special_tokens=False, verbose=False
    )
    offsets = known["offset_mapping"]
    step = length - (2 if model.tokenizer.cls_token_id is not None and not model.causal else 0)
    starts = range(0, len(offsets) - step + 1, step)
    found = [text[offsets[at][0] : offsets[at + step - 1][1]] for at in starts]
    end = offsets[starts[-1] + step - 1][1] if starts else 0
    return [part for part in found if part.strip()], text[end:]
