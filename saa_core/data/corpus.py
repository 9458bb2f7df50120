"""Texts for training and evaluating gates: documents with a fixed split, and token windows.

The split is part of the source, so that a held-out text is held out for everybody. A kind ("mail", "fiction") is
what a text is; it may have several sources. Windows are drawn from one kind at a time, each kind as often as
any other.
"""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saa_core.data import encodings, fetch, tables
from saa_core.data.packages import group
from saa_core.data.readers import READERS
from saa_core.data.recall import recall
from saa_core.errors import TextError, choice
from saa_core.types import StepProgress

HELD_OUT_SHARE = fetch.Pinned.held_out
HELD_OUT_NOVEL = "Persuasion"
LONG_LINE = 200
"""Characters above which a line must not stand in both parts of a source."""
ASKED_FOR = ("japanese",)
"""Kinds of another language than English: trained on where they are named."""
KIND = "kind:"
"""Before the name of a kind, where names of sources are expected: some kinds are called like a source."""
RECALL = "recall"
RECALL_DOCUMENTS = 600
HAY = ("austen", "jargon", "manual")
"""What the documents of the source "recall" are made of."""


@dataclass(frozen=True)
class Document:
    """One text.

    Args:
        source: a name of assets/data.toml or a path.
        split: "train" or "heldout".
        kind: what it is; empty where it is known by its source alone.
    """

    source: str
    name: str
    text: str
    split: str
    kind: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def kinds() -> dict[str, tuple[str, ...]]:
    """The kinds of pinned texts, each with its sources. Texts of classification tasks have none."""
    found: dict[str, tuple[str, ...]] = {}
    for name, entry in fetch.datasets().items():
        if entry.kind:
            found[entry.kind] = (*found.get(entry.kind, ()), name)
    return found


def default_sources() -> list[str]:
    """The sources of every English kind that may be trained on, those that are wholly held out included."""
    every = fetch.datasets()
    trained = {entry.kind for entry in every.values() if entry.use == "train"} - set(ASKED_FOR)
    return [name for name, entry in every.items() if entry.kind in trained]


def documents(
    sources: Iterable[str], progress: StepProgress | None = None, leave_out: Sequence[str] = ()
) -> list[Document]:
    """Reads pinned sources (fetched if missing) and files by path, each with its split.

    "kind:mail" stands for all sources of a kind. "recall" is made of the training part of HAY (see
    recall.py) and is for training only. The novels hold out Persuasion, a source marked "evaluate" is
    wholly held out, and everything else, plain files included, holds out its last tenth, or what
    assets/data.toml says (of documents, or of the one document).

    Args:
        leave_out: kinds of which only the held-out part is read.

    Raises:
        TextError: a name is neither a pinned source nor a kind nor a readable file, or no source is of a
            kind to leave out.
    """
    named = [source for name in sources for source in _sources(name)]
    there = {source: _kind(source) for source in named}
    for kind in leave_out:
        if kind not in there.values():
            raise TextError(choice("leave_out", kind, {*there.values()}))
    found: list[Document] = []
    for source, kind in there.items():
        if source == RECALL:
            found += _recall(progress, leave_out)
        elif source in READERS:
            found += _split(source, kind, list(READERS[source](fetch.fetch_data(source, progress))))
        else:
            found += _split(source, kind, _own(Path(source)))
    return [text for text in found if text.split == "heldout" or text.kind not in leave_out]


def _sources(name: str) -> tuple[str, ...]:
    """The sources that a name stands for; it is checked before anything is fetched."""
    if name.startswith(KIND):
        known = kinds()
        if name.removeprefix(KIND) not in known:
            raise TextError(choice("data", name, (f"{KIND}{kind}" for kind in known)))
        return known[name.removeprefix(KIND)]
    if name != RECALL and name not in READERS and not Path(name).is_file():
        raise TextError(
            f"data={name!r} is neither a file nor a known source; "
            f"known sources: {', '.join(sorted((*READERS, RECALL)))}; "
            f"known kinds: {', '.join(sorted(f'{KIND}{kind}' for kind in kinds()))}"
        )
    return (name,)


def _kind(source: str) -> str:
    return fetch.datasets()[source].kind if source in READERS else source


def _own(file: Path) -> list[tuple[str, str]]:
    """A user's file: the texts of a table, or one text in whatever encoding it is."""
    if tables.is_table(file):
        return [(f"{file.name} {n}", text) for n, text in enumerate(tables.read_column(file), 1)]
    return [(file.name, encodings.read_text(file))]


def _recall(progress: StepProgress | None, leave_out: Sequence[str]) -> list[Document]:
    sources = [source for source in HAY if _kind(source) not in leave_out]
    hay = join_documents(documents(sources, progress), "train")
    paragraphs = [part for text in hay.values() for part in text.split("\n\n") if len(part) > 80]
    if not paragraphs:
        raise TextError(f"leave_out={list(leave_out)}: nothing is left that {RECALL} is made of")
    made = recall(paragraphs, RECALL_DOCUMENTS)
    return [Document(RECALL, str(index), text, "train", RECALL) for index, text in enumerate(made)]


def _split(source: str, kind: str, named: list[tuple[str, str]]) -> list[Document]:
    entry = fetch.datasets()[source] if source in READERS else None
    share = 1 - (entry.held_out if entry else HELD_OUT_SHARE)
    if entry and entry.use == "evaluate":
        return [Document(source, name, text, "heldout", kind) for name, text in named]
    if source == "austen":
        train = [part for part in named if part[0] != HELD_OUT_NOVEL]
        held = [part for part in named if part[0] == HELD_OUT_NOVEL]
    elif len(named) == 1:
        name, text = named[0]
        cut = int(len(text) * share)
        train, held = [(name, text[:cut])], [(f"{name} (last tenth)", text[cut:])]
    else:
        cut = int(len(named) * share)
        while entry and 0 < cut < len(named) and _together(named[cut - 1 : cut + 1]):
            cut -= 1
        train, held = named[:cut], named[cut:]
    known = {line for _, text in train for line in text.split("\n") if len(line) > LONG_LINE}
    return [
        *(Document(source, name, text, "train", kind) for name, text in train),
        *(Document(source, name, _without(text, known), "heldout", kind) for name, text in held),
    ]


def _together(pair: list[tuple[str, str]]) -> bool:
    return bool(group(pair[0][0])) and group(pair[0][0]) == group(pair[1][0])


def _without(text: str, known: set[str]) -> str:
    """A held-out text without the long lines that the training part has too."""
    if known.isdisjoint(lines := text.split("\n")):
        return text
    return "\n".join(line for line in lines if line not in known)


def draw_windows(
    streams: Mapping[str, Sequence[int]], lengths: Sequence[int], seed: int, skip: int = 0
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """An endless, seeded sequence of token windows: kind in turn, length and place at random.

    Args:
        streams: token ids per kind (or whatever is to take turns), documents joined.
        lengths: window lengths in tokens; each window draws one of them.
        skip: windows to leave out at the start, so that a resumed run goes on where it stopped.

    Yields:
        (kind, offset in its stream, token ids).
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


def join_documents(
    found: Iterable[Document],
    split: str,
    limit: int = 4_000_000,
    by: Literal["source", "kind"] = "source",
) -> dict[str, str]:
    """The documents of one split as one text per source or kind, of at most ``limit`` characters.

    Short documents are joined; two kinds never are. The sources of a kind share its limit evenly, and
    what a short one leaves goes to the others.
    """
    parts: dict[str, dict[str, list[str]]] = {}
    for document in found:
        if document.split == split:
            key = document.kind if by == "kind" and document.kind else document.source
            parts.setdefault(key, {}).setdefault(document.source, []).append(document.text)
    return {
        key: _shared(["\n\n".join(texts) for texts in sources.values()], limit)
        for key, sources in parts.items()
    }


def _shared(texts: list[str], limit: int) -> str:
    lengths = dict[int, int]()
    for place, index in enumerate(sorted(range(len(texts)), key=lambda index: len(texts[index]))):
        lengths[index] = min(len(texts[index]), limit // (len(texts) - place))
        limit -= lengths[index]
    return "\n\n".join(text[: lengths[index]] for index, text in enumerate(texts))
