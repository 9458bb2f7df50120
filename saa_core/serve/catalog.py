"""The models of the start-up list, loaded: what a request may name, and under which policies.

Gates that are damaged, not trained or not those that the operator named never serve: the model then answers
densely. Nothing is loaded after the start.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from saa_core.data.titles import parts_of
from saa_core.errors import ModelError, PolicyError, SAAError, choice
from saa_core.serve.asked import DEFAULT, DENSE
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Breaking, ServedModel, Settings
from saa_core.serve.work.breaker import Breaker
from saa_core.types import Policy

LOG = logging.getLogger("saa.serve")
BREAKERS = 64
"""Policies of a model whose breakers are remembered; the ones that were used least recently are forgotten."""


@dataclass(eq=False)
class Offered:
    """A model that requests may name.

    Args:
        runs: an EngineModel or a PytorchModel of :mod:`saa_core.serve.work`.
        policies: by name, "default" and "dense" among them.
        first: the policy of a request that names none.
        damaged: why its gates are not used; None where they are.
    """

    name: str
    runs: Any
    policies: Mapping[str, Policy | None]
    first: str
    breaking: Breaking
    damaged: str | None = None
    _breakers: "OrderedDict[Hashable, Breaker]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def breaker(self, policy: Policy) -> Breaker:
        """Of the sparse path under one policy."""
        with self._lock:
            found = self._breakers.pop(policy, None) or Breaker(self.breaking)
            self._breakers[policy] = found
            while len(self._breakers) > BREAKERS:
                closed = next((k for k, v in self._breakers.items() if not v.open), None)
                self._breakers.pop(closed) if closed else self._breakers.popitem(last=False)
            return found

    @property
    def breaker_open(self) -> bool:
        with self._lock:
            return any(breaker.open for breaker in self._breakers.values())

    def sound(self) -> bool:
        """Looks at the gates again; where they are damaged, they are not used from here on."""
        if self.damaged is None and not self.runs.sound():
            self.damaged = "a number in the gates is none"
            LOG.error("gates are damaged", extra={"saa": {"model": self.name, "why": self.damaged}})
        return self.damaged is None


class Catalog:
    """All of them, by name."""

    def __init__(self, offered: Mapping[str, Offered]) -> None:
        self.offered = dict(offered)

    def get(self, name: str) -> Offered:
        """The model that a request names.

        Raises:
            UnknownModelError: it is not on the list.
        """
        found = self.offered.get(name)
        if found is None:
            raise UnknownModelError(choice("model", name, self.offered))
        return found

    def observe(self, metrics: Metrics) -> None:
        """Brings gauges up to date."""
        for name, offered in self.offered.items():
            metrics.breaker.labels(name).set(offered.breaker_open)
            metrics.damaged.labels(name).set(offered.damaged is not None)


class UnknownModelError(ModelError):
    """A request names a model that is not on the start-up list."""


def load_catalog(
    settings: Settings,
    progress: Callable[[str], None] = lambda _name: None,
    loaded: Mapping[str, Any] | None = None,
) -> Catalog:
    """Loads, checks and warms up every model of the list.

    Args:
        progress: called with each name before it is loaded.
        loaded: models that are loaded already (:class:`saa_core.Model`), by name.

    Raises:
        SAAError: a model, engine or policy file cannot be used; naming the model.
    """
    found = dict[str, Offered]()
    for wanted in settings.models:
        progress(wanted.name)
        try:
            found[wanted.name] = _offered(wanted, settings, (loaded or {}).get(wanted.name))
        except SAAError as error:
            raise type(error)(f"model {wanted.name!r}: {error}") from error
    return Catalog(found)


def _offered(wanted: ServedModel, settings: Settings, model: Any) -> Offered:
    runs = _runs(wanted, settings, model)
    policies: dict[str, Policy | None] = {DENSE: None, DEFAULT: runs.policy}
    for name, file in wanted.policies.items():
        policies[name] = _stored(file, runs)
    offered = Offered(wanted.name, runs, policies, wanted.default, settings.breaker)
    offered.damaged = _why_not(wanted, runs)
    if offered.damaged is None:
        for policy in filter(None, policies.values()):
            runs.check(policy)
    else:
        LOG.error(
            "gates are not used, answers are dense",
            extra={"saa": {"model": wanted.name, "why": offered.damaged}},
        )
    runs.warm_up()
    return offered


def _runs(wanted: ServedModel, settings: Settings, model: Any) -> Any:
    if wanted.engine is not None:
        from saa_core.serve.work.engine import EngineModel

        return EngineModel(wanted.engine, settings.threads or None)
    from saa_core.serve.work.pytorch import PytorchModel

    if model is None:
        from saa_core.loading import load

        assert wanted.model is not None
        own = parts_of(wanted.model)
        task = wanted.task or own.task
        model = load(
            own.model,
            device=settings.device,
            gates=wanted.gates,
            adapter=wanted.adapter or own.adapter,
            task=task,
            side="auto" if task is None else "sparse",
        )
    if model.task is not None:
        model.reference_model  # noqa: B018  loaded now: what answers when the sparse path fails
    return PytorchModel(model)


def _stored(file: str, runs: Any) -> Policy | None:
    """The policy of a file, which has to have been chosen for this model."""
    from saa_core.certify.policy_file import load_policy

    stored = load_policy(file)
    if hasattr(runs, "model"):
        if stored.policy is not None:
            stored.check(runs.model)
    elif stored.model not in (None, runs.title):
        raise PolicyError(
            f"policy={file!r} was chosen for {stored.model!r}, and this is {runs.title!r}"
        )
    return stored.policy


def _why_not(wanted: ServedModel, runs: Any) -> str | None:
    """Why the gates of a model may not serve; None where they may.

    Raises:
        ModelError: the weights are not those that the operator named.
    """
    if wanted.gates_sha256 or wanted.weights_sha256:
        own = runs.digests()
        if wanted.weights_sha256 not in ("", own["weights"]):
            raise ModelError("the weights are not those of weights_sha256")
        if wanted.gates_sha256 not in ("", own["gates"]):
            return "the gates are not those of gates_sha256"
    if not runs.trained and not wanted.untrained:
        return "the gates are not trained"
    return None if runs.sound() else "a number in the gates is none"
