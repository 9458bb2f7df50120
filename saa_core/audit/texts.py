"""The texts of an audit, tokenized and checked before the first is run, and kept on disk until it is.

So a file is read once and a text is tokenized once, a text that cannot be used stops the audit before
anything was run, and however many there are, one is in memory at a time.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from saa_core.errors import TextError
from saa_core.model import Model
from saa_core.run.text import encode


@dataclass(frozen=True)
class TokenizedText:
    """A text that a model can take.

    Args:
        encoded: token ids and offsets, as :func:`saa_core.run.text.encode` gives them.
    """

    text: str
    encoded: dict[str, Any]


@dataclass(frozen=True)
class CheckedTexts:
    """Texts as a model will run them, each once, and what became of the others.

    Args:
        long: texts that are longer than the model takes; cut, or left out where that was asked for.
        twice: texts that are the same as an earlier one, also once they are cut.
        invalid: texts that no model takes: empty, or not valid Unicode. Left out.
    """

    texts: tuple[str, ...]
    long: int
    twice: int
    invalid: int


def tokenize(model: Model, text: str, cut: bool) -> TokenizedText:
    """A text as it will be run.

    Args:
        cut: cut it to what the model takes, in place of refusing it.

    Raises:
        TextError: it is empty, not valid Unicode, or too long and is not to be cut.
    """
    try:
        return TokenizedText(text, encode(model, text))
    except TextError as error:
        if cut and error.cut_at:
            return tokenize(model, text[: error.cut_at], cut)
        raise


def check_texts(model: Model, texts: Iterable[str], *, cut: bool = True) -> CheckedTexts:
    """Looks at every text before the first is run, so that no text ends an audit in its middle.

    Args:
        cut: False leaves texts out that are too long.
    """
    found, long, twice, invalid = dict[str, None](), 0, 0, 0
    for text in texts:
        try:
            used = tokenize(model, text, cut).text
        except TextError as error:
            long += error.limit is not None
            invalid += error.limit is None
            continue
        long += used != text
        twice += used in found
        found[used] = None
    return CheckedTexts(tuple(found), long, twice, invalid)


class TextSpool:
    """Texts in the order in which they were added; gone when it is closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115, closed by __exit__
        self._count = 0

    def add(self, found: TokenizedText) -> None:
        kept = {name: found.encoded[name] for name in ("input_ids", "offset_mapping")}
        self._file.write(json.dumps([found.text, kept]) + "\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TokenizedText]:
        self._file.seek(0)
        for line in self._file:
            yield TokenizedText(*json.loads(line))

    def __enter__(self) -> "TextSpool":
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()
