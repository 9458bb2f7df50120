"""A presentation: steps in words, recorded figures and maps of recorded traces, read from a TOML file.

Never loads a model, so that what is shown is what was recorded. The file:

    [deck]
    title = { en = "...", ja = "..." }   # or one text for every language

    [[step]]
    title = "..."
    text = "..."        # paragraphs are parted by an empty line
    notes = "..."       # for the speaker
    trace = "NAME"      # NAME.saa or TIME-NAME.saa beside the file, or an id of the store
    look = { layer = 4, head = 2, query = 9, key = 3 }
                        # both may differ by language: trace = { en = "NAME", ja = "OTHER" }

    [[step.figure]]
    label = "..."
    of = "pairs_dropped"                 # of the step's trace, or of another: trace = "NAME"

    [[step.figure]]
    label = "..."
    measured = "prefill"                 # an entry of measured.json beside the file
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from saa_core.data.fetch import assets
from saa_core.deck.figures import Figure, format_figure, read_measured, trace_figure, words
from saa_core.errors import DeckError, SAAError, choice
from saa_core.report.sentences import check_language
from saa_core.store import Store, ids
from saa_core.trace.check import check
from saa_core.trace.trace import Trace

PLACES = ("layer", "head", "query", "key")


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded trace: its id, its file, and when it was recorded."""

    id: str
    file: Path
    recorded: datetime
    trace: Trace


@dataclass(frozen=True, eq=False)
class DeckView:
    """A map, and where to begin on it; query and key are positions of tokens."""

    recording: Recording
    layer: int
    head: int
    query: int
    key: int


@dataclass(frozen=True, eq=False)
class Step:
    """One step, in one language. ``text`` and ``notes`` are paragraphs; ``view`` None shows no map."""

    title: str
    text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    view: DeckView | None = None


@dataclass(frozen=True, eq=False)
class Deck:
    """A presentation in one language."""

    title: str
    language: str
    steps: tuple[Step, ...]


def list_decks() -> list[str]:
    """Names of the presentations that ship."""
    return sorted(path.stem for path in (assets() / "decks").glob("*.toml"))


def find_deck(name: str) -> Path:
    """The file of a presentation: a path that ends in .toml, or the name of one that ships.

    Raises:
        DeckError: it is neither.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in list_decks():
        raise DeckError(f"{choice('deck', name, list_decks())}, or give a .toml file")
    return assets() / "decks" / f"{name}.toml"


def read_deck(file: Path, *, language: str = "en", store: Store | None = None) -> Deck:
    """Reads a presentation in one of its languages, with everything that it shows.

    Args:
        store: where traces are looked for that do not lie beside the file.

    Raises:
        DeckError: the file cannot be read, or a step names what does not exist; says which step.
    """
    check_language(language, DeckError)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeckError(f"deck {file}: cannot be read: {error}") from error
    source = _Source(file.parent, language, store)
    try:
        _check_keys(table, ("deck", "step"))
        about, steps = table.get("deck"), table.get("step")
        if not isinstance(about, Mapping) or not isinstance(steps, list) or not steps:
            raise DeckError("a table [deck] with a title and at least one [[step]] are needed")
        _check_keys(about, ("title",))
        title = source.text(about, "title")
    except DeckError as error:
        raise DeckError(f"deck {file}: {error}") from error
    found = []
    for number, entry in enumerate(steps, 1):
        try:
            found.append(source.step(entry))
        except SAAError as error:
            raise DeckError(f"deck {file}, step {number}: {error}") from error
    return Deck(title, language, tuple(found))


def deck_of_runs(runs: Sequence[str], title: str, store: Store, *, language: str = "en") -> Deck:
    """A presentation of runs of the store, one step each: note as speaker notes, figures and map.

    Raises:
        StoreError, TraceError: there is no such run, or its file is broken.
        DeckError: no run is given, or the language is not known.
    """
    if not runs:
        raise DeckError("runs=[] is empty; give at least one id of the store")
    notes, names, steps = store.notes(), words(language)["of"], list[Step]()
    for run in runs:
        recording = _recording(store.path(run))
        trace = recording.trace
        wanted = ["label"] if trace.label is not None else []
        wanted += ["pairs_dropped"]
        wanted += ["attention_kept"] if trace.retained_mass is not None else []
        wanted += ["tokens_computed"] if trace.kept_tokens is not None else []
        about = notes.get(run)
        steps.append(
            Step(
                title=_beginning(trace),
                notes=_paragraphs(about.note) if about else (),
                figures=tuple(
                    format_figure(names[of], trace_figure(trace, of, recording.recorded), language)
                    for of in wanted
                ),
                view=_view(recording, {}),
            )
        )
    return Deck(title, language, tuple(steps))


@dataclass(frozen=True)
class _Source:
    """Where the parts of a step come from."""

    folder: Path
    language: str
    store: Store | None

    def step(self, entry: object) -> Step:
        if not isinstance(entry, Mapping):
            raise DeckError(f"step={entry!r} must be a table")
        _check_keys(entry, ("title", "text", "notes", "trace", "look", "figure"))
        name = self.own(entry.get("trace"))
        view = None
        if name is not None:
            view = _view(self.recording(name), self.own(entry.get("look", {})))
        elif "look" in entry:
            raise DeckError("look says where on a map to begin, and there is none; set trace too")
        figures = entry.get("figure", [])
        if not isinstance(figures, list):
            raise DeckError("figure must be written as [[step.figure]]")
        return Step(
            title=self.text(entry, "title"),
            text=_paragraphs(self.text(entry, "text", "")),
            notes=_paragraphs(self.text(entry, "notes", "")),
            figures=tuple(self.figure(figure, name) for figure in figures),
            view=view,
        )

    def figure(self, entry: object, trace: object) -> Figure:
        if not isinstance(entry, Mapping):
            raise DeckError(f"figure={entry!r} must be a table")
        _check_keys(entry, ("label", "of", "trace", "measured"))
        label = self.text(entry, "label")
        if ("of" in entry) == ("measured" in entry):
            raise DeckError(f"figure {label!r} needs exactly one of: measured, of")
        if "measured" in entry:
            measured = read_measured(self.folder / "measured.json", str(entry["measured"]))
            return format_figure(label, measured, self.language)
        name = self.own(entry.get("trace", trace))
        if name is None:
            raise DeckError(f"figure {label!r} is of a trace; name it with trace")
        recording = self.recording(name)
        found = trace_figure(recording.trace, str(entry["of"]), recording.recorded)
        return format_figure(label, found, self.language)

    def recording(self, name: object) -> Recording:
        """A trace beside the file, the newest of that name, or of the store."""
        if not ids.is_id(name):
            raise DeckError(f"trace={name!r} must be the name of a trace file, without .saa")
        dated = (
            file
            for file in self.folder.glob("*.saa")
            if name in (file.stem, ids.name_of(file.stem))
        )
        file = max(dated, key=lambda file: file.stem, default=None)
        if file is None and self.store is not None and name in self.store.ids():
            file = self.store.path(str(name))
        if file is None:
            raise DeckError(
                f"trace={name!r} is neither a .saa file in {self.folder} nor in the store"
            )
        return _recording(file)

    def own(self, value: Any) -> Any:
        """What a table by language holds for that of the presentation; anything else as it is."""
        return (
            value[self.language] if isinstance(value, Mapping) and self.language in value else value
        )

    def text(self, entry: Mapping[str, Any], key: str, default: str | None = None) -> str:
        """A text in the language of the presentation."""
        value = entry.get(key, default)
        if isinstance(value, Mapping):
            if self.language not in value:
                raise DeckError(f"{key} has no text in {self.language!r}, only: {', '.join(value)}")
            value = value[self.language]
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise DeckError(f"{key}={value!r} must be a text, or a table of texts by language")
        return value


def _check_keys(entry: Mapping[str, Any], valid: Sequence[str]) -> None:
    for key in entry:
        if key not in valid:
            raise DeckError(choice("key", key, valid))


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip())


def _recording(file: Path) -> Recording:
    return _open(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _open(file: Path, _changed: int) -> Recording:
    """Several steps show the same trace; a file that changed is opened anew."""
    trace = Trace.load(file)
    check(trace, maps=True)
    return Recording(file.stem, file, ids.recorded_at(file), trace)


def _view(recording: Recording, look: object) -> DeckView:
    """Where to begin; a step that does not say begins in the middle layer, at the last token."""
    if not isinstance(look, Mapping):
        raise DeckError(f"look={look!r} must be a table")
    _check_keys(look, PLACES)
    trace = recording.trace
    L, H = trace.shape
    query = look.get("query", trace.queries - 1)
    start = {"layer": L // 2, "head": 0, "query": query, "key": 0} | dict(look)
    for name, count in zip(PLACES, (L, H, trace.queries, trace.keys), strict=True):
        value = start[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
            raise DeckError(f"look: {name}={value!r} does not exist; choose 0 to {count - 1}")
    return DeckView(recording, **start)


def _beginning(trace: Trace) -> str:
    """The first words of a run's text, for a title."""
    text = " ".join((trace.text or str(trace.policy or trace.model.name)).split())
    return text if len(text) <= 60 else text[:59] + "…"
