"""A policy as a file: what was chosen, what it promises, on what data, for which model and gates.

    save_policy("policy.json", promise, model, data={"file": "mine.csv"}, command="saa tune ...")
    stored = load_policy("policy.json")
    stored.check(model)
    run(model, text, stored.policy)

Only ``format`` and ``policy`` have to be there, so that a file can be written by hand.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from saa_core.certify.certificate import Certificate, Setting
from saa_core.certify.limits import RiskLimit
from saa_core.errors import PolicyError
from saa_core.files import write_json
from saa_core.model import Model, fingerprint
from saa_core.run.varlen import drops_tokens, packing_of, token_gates
from saa_core.trace.record import versions
from saa_core.types import Policy

POLICY_FORMAT = 2
"""1: ``gates`` is of another form, and nothing is said of the weights. Such files are still read."""
KNOWN_FORMATS = (1, 2)


@dataclass(frozen=True)
class StoredPolicy:
    """What a policy file says.

    Args:
        policy: None stays dense: the model as it was before anything of SAA, a task's reference model.
        model: title of the model that it was chosen for; None fits any.
        gates, weights: fingerprints of its gates and of its weights (:class:`saa_core.model.Fingerprint`);
            None fits any.
        dtype: of these weights. In another one the weights are others, and only the gates are compared.
        promise: what the policy keeps to and how that was shown; None promises nothing.
        data: what the texts were: file, sha256, how they were split.
        command, created, versions: how, when and with what it was made.
        format: of the file.
    """

    policy: Policy | None
    model: str | None = None
    gates: str | None = None
    promise: Certificate | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    created: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    dtype: str | None = None
    format: int = POLICY_FORMAT

    def __post_init__(self) -> None:
        if self.promise is not None and self.promise.policy != self.policy:
            raise PolicyError("policy differs from the one in its promise")

    def check(self, model: Model) -> None:
        """Refuses a model for which the policy was not chosen.

        Raises:
            PolicyError: model, weights or gates are others.
        """
        title = model.spec.title
        if self.policy is None and (model.spec.adapter is not None or drops_tokens(model)):
            raise PolicyError(
                f"policy stays dense, and {title!r} is not the dense model: load it without its adapter, or "
                'a task with side="dense"'
            )
        dense = self.policy is None and (self.model or "").startswith(f"{title} + ")
        if self.model not in (None, title) and not dense:
            raise PolicyError(
                f"policy was chosen for model {self.model!r}, and this one is {title!r}; load that one, "
                "or choose a policy for this one with saa tune"
            )
        if self.policy is None or (self.gates is None and self.weights is None):
            return
        if self.format == 1:
            own = {"gates": _first_format_gates(model)}
        else:
            found = fingerprint(model)
            own = {"gates": found.gates}
            own |= {"weights": found.weights} if found.dtype == self.dtype else {}
        for what, value in own.items():
            if getattr(self, what) not in (None, value):
                raise PolicyError(
                    f"policy was chosen for other {what} of {title!r} than these; what it "
                    "promises does not hold for them: choose one anew with saa tune"
                )


def _first_format_gates(model: Model) -> str:
    """The fingerprint of gates in files of format 1: pair gates with their slack, token gates and a
    task's head, in another order and with a class's earlier name."""
    digest = hashlib.sha256()
    parts: list[Any] = list(model.gates)
    if drops_tokens(model):
        parts += filter(None, token_gates(packing_of(model)))
    parts += [] if model.task is None else [model.task.head]
    for part in parts:
        slack = getattr(part, "calibration", None)
        told = repr(slack) if slack is None else f"Calibration({_arguments(slack)})"
        digest.update(told.encode())
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _arguments(value: Any) -> str:
    return ", ".join(f"{field.name}={getattr(value, field.name)!r}" for field in fields(value))


def save_policy(
    file: str | os.PathLike[str],
    chosen: Certificate | Policy | None,
    model: Model | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Path:
    """Writes a policy file.

    Args:
        chosen: what :func:`certify_policy` gave, or a policy without a promise, or None for dense.
        model: the one that it was chosen for.
        data: what the texts were, in plain values.
    """
    promise = chosen if isinstance(chosen, Certificate) else None
    policy = chosen.policy if isinstance(chosen, Certificate) else chosen
    found = None if model is None else fingerprint(model)
    stored = StoredPolicy(
        policy=policy,
        model=None if model is None else model.spec.title,
        gates=None if found is None else found.gates,
        weights=None if found is None else found.weights,
        dtype=None if found is None else found.dtype,
        promise=promise,
        data=dict(data or {}),
        command=command,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        versions=versions(),
    )
    path = Path(file)
    write_json(path, {"format": stored.format} | asdict(stored))
    return path


def load_policy(file: str | os.PathLike[str]) -> StoredPolicy:
    """Reads a policy file.

    Raises:
        PolicyError: naming the file; it cannot be read, is of another format, or holds values that
            cannot be used.
    """
    path = Path(file)
    try:
        return read_policy(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PolicyError(f"policy={str(file)!r} is no valid policy file: {error}") from error


def read_policy(content: bytes) -> StoredPolicy:
    """The same from what a file holds.

    Raises:
        PolicyError: see :func:`load_policy`.
    """
    try:
        about: Any = json.loads(content.decode("utf-8"))
        if not isinstance(about, dict) or "policy" not in about:
            raise ValueError('it needs to be a JSON object with "format" and "policy"')
        version = about.setdefault("format", None)
        if version not in KNOWN_FORMATS:
            known = ", ".join(map(str, KNOWN_FORMATS))
            raise ValueError(f"it has format {version!r}; this version reads {known}")
        about["policy"] = _policy(about["policy"])
        if about.get("promise") is not None:
            about["promise"] = _promise(about["promise"])
        return StoredPolicy(**about)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PolicyError(f"not a policy file: {error}") from error


def _policy(about: Any) -> Policy | None:
    return None if about is None else Policy.stored(about)


def _setting(about: dict[str, Any]) -> Setting:
    """A figure that was no finite number is null in the file."""
    found: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in about.items()
    }
    return Setting(**{**found, "policy": Policy.stored(about["policy"])})


def _promise(about: dict[str, Any]) -> Certificate:
    settings = tuple(_setting(each) for each in about["settings"])
    return Certificate(
        **{
            **about,
            "sla": RiskLimit(**about["sla"]),
            "policy": _policy(about["policy"]),
            "settings": settings,
        }
    )
