"""What a model is called: "smollm2", or with what ships for it "smollm2 + saa-joint" and "minilm + spam"."""

from pathlib import Path
from typing import NamedTuple

from saa_core.data import fetch
from saa_core.errors import ModelError

FIRST = "smollm2 + saa-joint"
"""The language model that page and command line start with: trained together with its gates."""


class Parts(NamedTuple):
    """A model by its alias, hub id or folder, and what ships for it: an adapter or a task, or neither."""

    model: str
    adapter: str | None = None
    task: str | None = None


def parts_of(name: str) -> Parts:
    """Takes a title apart. What does not begin with an alias and a plus sign is a name as it is.

    Raises:
        ModelError: neither an adapter nor a task of that name ships for the alias.
    """
    model, plus, part = (piece.strip() for piece in name.partition("+"))
    if not plus or model not in fetch.models() or Path(name).exists():
        return Parts(name)
    adapters, tasks = (fetch.list_shipped(kind, model) for kind in ("adapters", "tasks"))
    if part in adapters:
        return Parts(model, adapter=part)
    if part in tasks:
        return Parts(model, task=part)
    shipped = ", ".join(f"{model} + {each}" for each in (*adapters, *tasks))
    raise ModelError(
        f"model={name!r}: {part!r} does not ship for {model!r}; shipped: {shipped or 'nothing'}"
    )
