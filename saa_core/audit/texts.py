"""The texts of an audit, tokenized and checked before the first is run, and kept on disk until it is.

So a file is read once and a text is tokenized once, a text that cannot be used stops the audit before
anything was run, and however many there are, one is in memory at a time.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenizedText:
    """A text that a model can take.

    Args:
        encoded: token ids and offsets, as :func:`saa_core.run.text.encode` gives them.
    """

    text: str
    encoded: dict[str, Any]


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
