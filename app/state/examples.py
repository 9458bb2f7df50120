"""The example texts of the gallery."""

import functools
import tomllib
from dataclasses import dataclass
from typing import Any

from saa_core.data import fetch


@dataclass(frozen=True)
class GalleryExample:
    """One card: its id in the address, its text, its title and description by language. ``model`` is
    the only one whose gallery it hangs in; None is every model without a gallery of its own."""

    id: str
    text: str
    titles: dict[str, str]
    descriptions: dict[str, str]
    model: str | None = None


@functools.cache
def examples() -> dict[str, GalleryExample]:
    """All examples by id, in the order of the gallery."""
    folder = fetch.assets() / "examples"
    table = tomllib.loads((folder / "examples.toml").read_text(encoding="utf-8"))
    found = [
        _example(entry, (folder / entry["file"]).read_text("utf-8")) for entry in table["example"]
    ]
    return {example.id: example for example in found}


def gallery(model: str) -> list[GalleryExample]:
    """The examples for one model of the list."""
    own = [example for example in examples().values() if example.model == model]
    return own or [example for example in examples().values() if example.model is None]


def texts() -> dict[str, str]:
    return {name: example.text for name, example in examples().items()}


def _example(entry: dict[str, Any], text: str) -> GalleryExample:
    by_language = {
        part: {lang: entry[f"{part}_{lang}"] for lang in ("en", "ja")}
        for part in ("title", "description")
    }
    about = by_language["title"], by_language["description"]
    return GalleryExample(entry["id"], text.rstrip(), *about, entry.get("model"))
