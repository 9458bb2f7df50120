"""What an operator sets: models, limits, what a request may ask for, who may ask. ``serve.toml`` and options.

Needs neither a web framework nor PyTorch. Values are checked where they are made.
"""

import ipaddress
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from saa_core.errors import PolicyError, choice

KEEPING = ("none", "figures", "text")
POLICY_FIELDS = ("mass", "budget", "tokens", "guard", "tail", "sink", "local", "fallback", "force")
"""Fields of a policy that a request may set, unless the operator allows fewer."""
T = TypeVar("T")


@dataclass(frozen=True)
class ServedModel:
    """One model of the start-up list.

    Args:
        name: in requests; by default the title, for example "minilm + spam".
        model: alias, hub id or folder; an alias with what ships for it. Or ``engine``.
        engine: folder that ``saa export`` wrote; it is run by ONNX Runtime.
        gates, adapter, task: as of :func:`saa_core.load`.
        policies: policy files by the name under which requests ask for them.
        default: the policy of a request that names none: "default", the model's own; "dense"; or a name
            of ``policies``.
        gates_sha256, weights_sha256: fingerprints that the model must have; with other gates it is served
            densely, with other weights not at all. Empty fits any.
        untrained: serve gates that were never trained; only for trying out.
    """

    name: str = ""
    model: str | None = None
    engine: str | None = None
    gates: str | None = None
    adapter: str | None = None
    task: str | None = None
    policies: Mapping[str, str] = field(default_factory=dict)
    default: str = "default"
    gates_sha256: str = ""
    weights_sha256: str = ""
    untrained: bool = False

    def __post_init__(self) -> None:
        if (self.model is None) == (self.engine is None):
            raise PolicyError(f"model {self.name!r}: give either model or engine")
        if not self.name:
            parts = (self.model or self.engine, self.adapter, self.task)
            object.__setattr__(self, "name", " + ".join(part for part in parts if part))
        if not self.name.isprintable() or "/" in self.name or len(self.name) > 120:
            raise PolicyError(
                f"name={self.name!r} must be printable, without /, 120 letters at most"
            )
        known = ("default", "dense", *self.policies)
        if self.default not in known:
            raise PolicyError(choice(f"default of model {self.name!r}", self.default, known))


@dataclass(frozen=True)
class Bounds:
    """What the policy of a request may be; dense is always allowed.

    Args:
        fields: of a policy that may be set; none allows names of policies only.
        mass, budget, tokens: the least of each.
        missed_mass: where it is set, pairs are never left out without a guard of this limit or a
            stricter one.
    """

    fields: tuple[str, ...] = POLICY_FIELDS
    mass: float = 0.8
    budget: float = 0.2
    tokens: float = 0.2
    missed_mass: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        for name in self.fields:
            if name not in POLICY_FIELDS:
                raise PolicyError(choice("bounds.fields", name, POLICY_FIELDS))
        for name in ("mass", "budget", "tokens"):
            _between(f"bounds.{name}", getattr(self, name), 0.0, 1.0)
        if self.missed_mass is not None:
            _between("bounds.missed_mass", self.missed_mass, 0.001, 0.999)


@dataclass(frozen=True)
class Limits:
    """Sizes and times that a request, or all of them together, may have.

    Args:
        body_bytes: of a request.
        texts, tokens, new_tokens: of a request: texts in it, their tokens together, tokens to write.
        waiting, waiting_tokens: requests, and their prompt tokens, that may be in the process at once.
        streams: continuations that are written at the same time, token by token in turn.
        batch: texts that are computed together.
        connections: open ones.
        request_seconds: from arrival to the end of the answer.
        sparse_seconds, dense_seconds: of one step: a batch, the reading of a prompt, one token; for every
            2,048 tokens in it. The sparse path is stopped and answered densely after its own.
        idle_seconds: without a byte of a request that has begun.
        drain_seconds: that requests get to end after SIGTERM.
    """

    body_bytes: int = 2 << 20
    texts: int = 256
    tokens: int = 16_384
    new_tokens: int = 512
    waiting: int = 256
    waiting_tokens: int = 65_536
    streams: int = 4
    batch: int = 32
    connections: int = 512
    request_seconds: float = 120.0
    sparse_seconds: float = 30.0
    dense_seconds: float = 60.0
    idle_seconds: float = 10.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type is int:
                _whole(f"limits.{each.name}", value, 1)
            else:
                _between(f"limits.{each.name}", value, 0.01, 86_400.0)


@dataclass(frozen=True)
class Keep:
    """What becomes of runs that were asked for with ``/saa/v1/run``.

    Args:
        what: "none"; "figures", without the text and all that tells it; "text", as they were recorded.
        folder: where; none is "served" beside the user's store of traces.
        hours: after which a run is deleted.
        most: runs that are kept; the oldest go first.
    """

    what: str = "none"
    folder: str | None = None
    hours: float = 24.0
    most: int = 1000

    def __post_init__(self) -> None:
        if self.what not in KEEPING:
            raise PolicyError(choice("keep.what", self.what, KEEPING))
        _between("keep.hours", self.hours, 0.0, 24 * 365.0)
        _whole("keep.most", self.most, 1)


@dataclass(frozen=True)
class Breaking:
    """When the sparse path of a model under a policy is left alone, and for how long.

    Args:
        failures: within ``window_seconds`` that open the breaker.
        cooldown_seconds: after which one request tries the sparse path again.
    """

    failures: int = 3
    window_seconds: float = 60.0
    cooldown_seconds: float = 60.0

    def __post_init__(self) -> None:
        _whole("breaker.failures", self.failures, 1)
        for name in ("window_seconds", "cooldown_seconds"):
            _between(f"breaker.{name}", getattr(self, name), 0.0, 86_400.0)


@dataclass(frozen=True)
class Settings:
    """All of it.

    Args:
        host, port: to listen at. Port 0 takes a free one.
        hosts: names under which the server may be addressed, beside the loopback's own and ``host``.
        origins: web pages, as "https://name:port", that may send requests from a browser.
        token_file: see :mod:`saa_core.serve.access`.
        device, threads: as of PyTorch and ONNX Runtime; threads 0 is their own choice.
    """

    models: tuple[ServedModel, ...]
    host: str = "127.0.0.1"
    port: int = 8601
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token_file: str | None = None
    device: str = "auto"
    threads: int = 0
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    keep: Keep = field(default_factory=Keep)
    breaker: Breaking = field(default_factory=Breaking)

    def __post_init__(self) -> None:
        for name in ("models", "hosts", "origins"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.models:
            raise PolicyError("models is empty; name one at least, in serve.toml or with --model")
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PolicyError(f"models has {', '.join(twice)} twice; give each a name of its own")
        if not (type(self.port) is int and 0 <= self.port < 65_536):
            raise PolicyError(f"port={self.port!r} must be a whole number from 0 to 65535")
        _whole("threads", self.threads, 0)

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_settings(file: Path) -> Settings:
    """The settings of a ``serve.toml``. Paths of engines, policies and folders in it are relative to it.

    Raises:
        PolicyError: it cannot be read, or holds a name or value that cannot be used.
    """
    try:
        about = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"--config={str(file)!r} cannot be read: {error}") from error
    try:
        given: dict[str, Any] = dict(about)
        given["models"] = [_section(ServedModel, each) for each in _list(given.pop("model", []))]
        for name, kind in (
            ("limits", Limits),
            ("bounds", Bounds),
            ("keep", Keep),
            ("breaker", Breaking),
        ):
            if name in given:
                given[name] = _section(kind, given[name])
        return _beside(_section(Settings, given), file.parent)
    except PolicyError as error:
        raise PolicyError(f"--config={str(file)!r}: {error}") from error


def _beside(found: Settings, folder: Path) -> Settings:
    """With paths that start at the file's folder."""

    def at(path: str | None) -> str | None:
        return None if path is None else str(folder / path)

    models = [
        replace(
            m, engine=at(m.engine), policies={k: str(folder / v) for k, v in m.policies.items()}
        )
        for m in found.models
    ]
    keep = replace(found.keep, folder=at(found.keep.folder))
    return replace(found, models=tuple(models), keep=keep, token_file=at(found.token_file))


def _section(kind: type[T], given: object) -> T:
    """One table of the file, whose names have to be known."""
    if not isinstance(given, Mapping):
        raise PolicyError(f"{kind.__name__} must be a table")
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise PolicyError(choice(f"a name of {kind.__name__}", name, known))
    try:
        return kind(**given)
    except TypeError as error:
        raise PolicyError(str(error)) from error


def _list(given: object) -> Sequence[object]:
    if not isinstance(given, list):
        raise PolicyError("models are written as [[model]] tables")
    return given


def _whole(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise PolicyError(f"{name}={value!r} must be a whole number >= {least}")


def _between(name: str, value: object, least: float, most: float) -> None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (numeric and math.isfinite(value) and least <= value <= most):  # type: ignore[arg-type, operator]
        raise PolicyError(f"{name}={value!r} must be a number from {least:g} to {most:g}")
