"""Texts of a user's files, one after the other: rows of a table, or windows of a plain text.

However long a file is, only a part of it is in memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from saa_core.data import encodings, tables
from saa_core.errors import PolicyError, TextError
from saa_core.model import Model
from saa_core.run.text import encode

PIECE = 1_000_000
"""Characters of a plain text file that are cut at once."""
COUNTED = 1000
"""Texts whose tokens are counted at once."""


def texts_of(
    model: Model,
    file: Path,
    column: str = "text",
    length: int = 512,
    reading: tables.Reading | None = None,
) -> Iterator[str]:
    """The texts of one file. Rows of a table without a text are left out.

    Args:
        file: a table (see data/tables.py); anything else is plain text, cut into windows.
        column: of a table.
        length: tokens per window; the last and shorter one is left out.
        reading: takes what was recognized and left out; its ``rows`` is the number of the row or window
            that came last.

    Raises:
        TextError: the file cannot be read, lacks the column, has no text, or is a plain text shorter than
            one window.
        PolicyError: the model takes no windows of this length.
    """
    known = tables.Reading() if reading is None else reading
    if tables.is_table(file):
        yield from tables.read_column(file, column, known)
        return
    count, rest = 0, ""
    encoding = encodings.recognize(file)
    known.form, known.what = f"{encoding.name} text in windows of {length} tokens", "window"
    try:
        with file.open(encoding=encoding.codec) as stream:
            while piece := stream.read(PIECE):
                found, rest = split_windows(model, rest + piece, length)
                for text in found:
                    count = known.rows = count + 1
                    yield text
    except OSError as error:
        raise TextError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise encodings.damaged(str(file), encoding, error) from error
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
    step = length - sum(map(len, model.added_tokens))
    starts = range(0, len(offsets) - step + 1, step)
    found = [text[offsets[at][0] : offsets[at + step - 1][1]] for at in starts]
    end = offsets[starts[-1] + step - 1][1] if starts else 0
    return [part for part in found if part.strip()], text[end:]


def longer_than(model: Model, texts: Sequence[str], limit: int) -> dict[int, int]:
    """Index and tokens of the texts that are longer than ``limit`` tokens, special tokens included."""
    found = dict[int, int]()
    for start in range(0, len(texts), COUNTED):
        # Lone surrogates are refused later, where they are named.
        part = [text.encode("utf-8", "replace").decode() for text in texts[start : start + COUNTED]]
        ids = model.tokenizer(part, verbose=False)["input_ids"]
        found |= {start + i: len(own) for i, own in enumerate(ids) if len(own) > limit}
    return found


def cut_to_fit(model: Model, text: str) -> str:
    """A text, or as much of its start as the model takes.

    Raises:
        TextError, ModelError: see :func:`saa_core.run.text.encode`.
    """
    while True:
        try:
            encode(model, text)
        except TextError as error:
            if not error.cut_at:
                raise
            text = text[: error.cut_at]
        else:
            return text
