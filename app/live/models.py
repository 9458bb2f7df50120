"""The models that can be chosen, and those that are loaded: shared by all visitors of this process."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

import saa_core as saa
from app.live.turns import Turns
from saa_core.attention.profiles import faster_dtype, this_machine
from saa_core.audit.audit import digests
from saa_core.data import fetch
from saa_core.data.titles import FIRST, parts_of
from saa_core.types import StepProgress

OF_MINILM, OF_E5 = (
    tuple(f"{model} + {task}" for task in fetch.list_shipped("tasks", model))
    for model in ("minilm", "e5")
)
TASKS = OF_MINILM + OF_E5
"""Titles of the models that give a text a label."""
MODELS = (FIRST, "smollm2", "minilm", *OF_MINILM, "e5", *OF_E5)
"""What can be chosen from the list, what a visit starts with first; any hub id or folder can be typed."""
MODELS_KEPT = 4


@dataclass(frozen=True)
class Source:
    """Where a model comes from: alias, hub id or folder; gate folder; adapter; task."""

    model: str
    gates: str | None = None
    adapter: str | None = None
    task: str | None = None


def shipped_sources() -> dict[str, Source]:
    """The models of the list."""
    return {name: _source(name) for name in MODELS}


def _source(name: str) -> Source:
    """Of a name that was typed; what it names beside the model is taken apart, so that it is compared with
    the original."""
    try:
        found = parts_of(name)
    except saa.ModelError:  # said when it is loaded
        return Source(name)
    return Source(found.model, adapter=found.adapter, task=found.task)


def _dtype(source: Source) -> torch.dtype | None:
    """The number format in which this machine was measured to run a model fastest (`saa measure --profile`);
    None: the usual one."""
    if source.task is not None or torch.cuda.is_available():
        return None
    machine = this_machine(torch.device("cpu"), torch.get_num_threads())
    found = faster_dtype(source.model, machine)
    return None if found is None else getattr(torch, found)


class ModelRegistry:
    """Loaded models by name, the least recently used first.

    Runs take turns, so that people do not spoil each other's latencies. Loading has a lock of its own: nobody
    who has a model waits for somebody else's. Both are held long; the lock of the tables never is.

    Args:
        kept: models that stay loaded; more only while more are in use.
    """

    def __init__(self, kept: int = MODELS_KEPT) -> None:
        self.kept = kept
        self.sources = shipped_sources()
        self._models: dict[str, saa.Model] = {}
        self._warm: dict[str, set[str]] = {}
        self._in_use = Counter[str]()
        self._digests = weakref.WeakKeyDictionary[Any, tuple[str, str]]()
        self._tables, self._loading = threading.Lock(), threading.Lock()
        self.turns = Turns()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the loaded models, the least recently used first."""
        with self._tables:
            return tuple(self._models)

    def identify(self, model: str, gates: str) -> str:
        """One name for a model with a gate folder of the visitor's; the model's own name without one."""
        if not gates:
            return model
        name = f"{model} + {gates}"
        with self._tables:
            self.sources[name] = replace(self.sources.get(model) or _source(model), gates=gates)
        return name

    def source(self, name: str) -> Source:
        with self._tables:
            return self.sources.get(name) or _source(name)

    def get(self, name: str, progress: StepProgress | None = None) -> saa.Model:
        """A loaded model; loads it first where it is not.

        Raises:
            ModelError, FetchError, GateError: see :func:`saa_core.load`.
        """
        found = self._touch(name)
        if found is not None:
            return found
        with self._loading:
            found = self._touch(name)  # somebody else may have loaded it while we waited
            if found is None:
                source = self.source(name)
                found = saa.load(
                    source.model,
                    gates=source.gates,
                    adapter=source.adapter,
                    task=source.task,
                    dtype=_dtype(source),
                    progress=progress,
                )
                self.put(name, found)
        return found

    def put(self, name: str, model: saa.Model) -> None:
        """Keeps a model under a name, and drops those that were used least recently; never this one,
        nor one that a run is using."""
        with self._tables:
            self._models.pop(name, None)
            self._models[name] = model
            idle = [old for old in self._models if old != name and not self._in_use[old]]
            for old in idle[: max(len(self._models) - self.kept, 0)]:
                del self._models[old]
                self._warm.pop(old, None)

    def reference(self, name: str) -> saa.Model:
        """The model that a task's results are compared with; it is loaded once and goes with the task's."""
        model = self.get(name)
        with self._loading:
            return model.reference_model

    def digests(self, model: saa.Model) -> tuple[str, str]:
        """See :func:`saa_core.audit.audit.digests`; a loaded model stays as it is, so that its weights are
        read once, and not at each step of an audit."""
        with self._tables:
            found = self._digests.get(model.hf)
        if found is None:
            found = digests(model)
            with self._tables:
                self._digests[model.hf] = found
        return found

    @contextmanager
    def run(
        self,
        *names: str,
        visitor: object = None,
        urgent: bool = False,
        waiting: Callable[[int], None] | None = None,
    ) -> Iterator[None]:
        """One run at a time; the models of these names stay loaded until it is over.

        Args:
            visitor, urgent, waiting: see :meth:`app.live.turns.Turns.take`.
        """
        with self._tables:
            self._in_use.update(names)
        try:
            with self.turns.take(visitor, urgent=urgent, waiting=waiting):
                yield
        finally:
            with self._tables:
                self._in_use.subtract(names)

    def warm(self, name: str) -> frozenset[str]:
        """Kinds of texts that a model has run before."""
        with self._tables:
            return frozenset(self._warm.get(name, ()))

    def set_warm(self, name: str, kind: str) -> None:
        with self._tables:
            self._warm.setdefault(name, set()).add(kind)

    def _touch(self, name: str) -> saa.Model | None:
        with self._tables:
            found = self._models.pop(name, None)
            if found is not None:
                self._models[name] = found
            return found


REGISTRY = ModelRegistry()
"""Of this process; Streamlit runs a page again and again, and keeps what it imported."""
