"""The recorded stories that the first page opens on: runs that ship, and how typical each is.

Nothing here loads a model; `python -m scripts.stories` writes what is read.
"""

import functools
import json
import tomllib
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import saa_core as saa
from app.live.models import MODELS
from app.live.values import Result
from app.state.examples import examples
from app.state.session import recorded_result
from saa_core.data import fetch
from saa_core.store import ids

FOLDER = fetch.assets() / "stories"
WORK = FOLDER / "work.json"
"""Operations of a task's run against dense, by story; a trace does not hold them."""
SIDES = ("dense", "saa", "guarded")


@dataclass(frozen=True)
class Typical:
    """How such runs do on the texts that they were measured on. Shares lie in [0, 1]; None was not measured.

    Args:
        recorded: day, ISO 8601.
        device, cpu, threads: what it was measured on; nothing where no time was measured.
        source: the command that measured it.
        texts, tokens: how many texts, and how long they are.
        work: operations against dense; of pairs the share that was computed.
        changed: share of answers that are not dense's, and its 95 % interval.
        faster: dense time / SAA time, one text at a time, and its middle half.
        worse: increase of perplexity, and its 95 % interval.
        cosine: of the embeddings with dense's, and its 95 % interval.
        guarded_changed, asked: with a guard of this margin, the share of changed answers that is left, and
            the share of texts that are computed once more.
    """

    recorded: str
    source: str
    device: str = "cpu"
    cpu: str = ""
    threads: int = 0
    texts: int | None = None
    tokens: int | None = None
    dtype: str = ""
    work: float | None = None
    changed: float | None = None
    changed_spread: tuple[float, float] | None = None
    faster: float | None = None
    faster_spread: tuple[float, float] | None = None
    worse: float | None = None
    worse_spread: tuple[float, float] | None = None
    cosine: float | None = None
    cosine_spread: tuple[float, float] | None = None
    guarded_changed: float | None = None
    guarded_spread: tuple[float, float] | None = None
    asked: float | None = None
    margin: float | None = None


@dataclass(frozen=True, eq=False)
class Story:
    """One text, run densely and with SAA; ``guarded`` once more with a guard, where the story is about one.

    Args:
        kind: "task" (tokens crossed out), "embedding", "long" (pairs, in time) or "guard".
        model, example: what measures it here: a model of the list, and a text of the gallery.
        pictures: PNG of one head for a light and a dark page; none of a task.
    """

    id: str
    kind: str
    model: str
    example: str
    typical: Typical
    recorded: datetime
    result: Result
    guarded: saa.Trace | None
    pictures: tuple[bytes, ...]

    @property
    def text(self) -> str:
        return examples()[self.example].text


@functools.cache
def stories(lang: str) -> tuple[Story, ...]:
    """The stories of a language, in the order in which they are shown."""
    table = tomllib.loads((FOLDER / "stories.toml").read_text(encoding="utf-8"))
    known = [
        entry
        for entry in table["story"]
        if lang in entry["languages"]
        and entry["model"] in MODELS
        and newest(FOLDER, f"{entry['id']}_saa") is not None
    ]
    replaced = {entry.get("instead_of") for entry in known}
    return tuple(_read(entry["id"]) for entry in known if entry["id"] not in replaced)


@functools.cache
def _read(name: str) -> Story:
    table = tomllib.loads((FOLDER / "stories.toml").read_text(encoding="utf-8"))
    entry = next(entry for entry in table["story"] if entry["id"] == name)
    files = {side: newest(FOLDER, f"{name}_{side}") for side in SIDES}
    dense, sparse, guarded = (None if f is None else saa.Trace.load(f) for f in files.values())
    assert sparse is not None, f"no run of the story {name}: python -m scripts.stories"
    assert files["saa"] is not None
    work = json.loads(WORK.read_text(encoding="utf-8")).get(name)
    pictures = [FOLDER / f"{name}_{theme}.png" for theme in ("light", "dark")]
    return Story(
        id=name,
        kind=entry["kind"],
        model=entry["model"],
        example=entry["example"],
        typical=typical()[entry["typical"]],
        recorded=ids.recorded_at(files["saa"]),
        result=replace(recorded_result(sparse, name, dense), flops_share=work),
        guarded=guarded,
        pictures=tuple(file.read_bytes() for file in pictures if file.exists()),
    )


@functools.cache
def typical() -> dict[str, Typical]:
    """By the name that stories.toml uses."""
    table = json.loads((FOLDER / "typical.json").read_text(encoding="utf-8"))
    return {
        name: Typical(**{key: _frozen(v) for key, v in row.items()}) for name, row in table.items()
    }


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def newest(folder: Path, name: str) -> Path | None:
    """The file TIME-NAME.saa of a folder; None if there is none."""
    found = [file for file in folder.glob("*.saa") if ids.name_of(file.stem) == name]
    return max(found, key=lambda file: file.stem, default=None)
