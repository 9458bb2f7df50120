"""A Hugging Face model with its gates, its tokenizer and its task, and what is known about them."""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from saa_core.errors import ModelError
from saa_core.families import family_of
from saa_core.gates.pair import PairGate
from saa_core.gates.reliability import Reliability
from saa_core.task import Task
from saa_core.types import Policy

GATES = re.compile(r"\bsaa_(token_)?gate\b")
"""Names of parameters that a dense run does not use."""


@dataclass(frozen=True)
class Spec:
    """What a model is and where its gate comes from.

    Args:
        name: alias, hub id, folder or class name.
        family: key in FAMILIES.
        licence: of the model's weights, if known.
        note: what a user should know about the weights.
        prefix: what the tokenizer puts in front of every text; the model was made for texts that have it.
        gate: id of the trained gates, or "untrained".
        adapter: name of the low-rank adapter that was merged into the weights, if any.
        task: name of the classification task that the weights were tuned for, if any.
        trained: False where the gates are fresh; their decisions then mean nothing.
        training: how the gates were trained, as stored with them.
        evaluation: what was measured when the gates were trained, as stored with them.
        policy: the default: calibrated where the gates are trained.
        reliability: how true predicted mass was found to be, as stored with the gates.
    """

    name: str
    family: str
    licence: str = "unknown"
    note: str = ""
    gate: str = "untrained"
    adapter: str | None = None
    task: str | None = None
    trained: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    reliability: tuple[Reliability, ...] = ()
    prefix: str = ""

    @property
    def title(self) -> str:
        """Name with adapter or task, so that nobody takes the one model for the other."""
        return " + ".join(part for part in (self.name, self.adapter, self.task) if part)


@dataclass(frozen=True)
class Model:
    """A Hugging Face model with gates attached, its tokenizer, what is known about both, and the
    classification task that it was loaded for, if any."""

    hf: Any
    tokenizer: Any
    spec: Spec
    task: Task | None = None
    load_reference: "Callable[[], Model] | None" = field(default=None, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where it computes: offloaded weights are brought there."""
        weights = (weight for weight in self.hf.parameters() if not weight.is_meta)
        parameter: torch.Tensor = next(weights)
        return parameter.device

    @property
    def dtype(self) -> torch.dtype:
        parameter: torch.Tensor = next(self.hf.parameters())
        return parameter.dtype

    @cached_property
    def reference_model(self) -> "Model":
        """The model that was fine-tuned for the same task and drops nothing; loaded when asked for.

        Raises:
            ModelError: the model was loaded for no task.
        """
        if self.task is None or self.load_reference is None:
            raise ModelError(
                f"model={self.spec.title!r} was loaded for no task; it has no reference model"
            )
        return self if self.task.side == "dense" else self.load_reference()

    @property
    def dense_side(self) -> "Model":
        """Deprecated name of ``reference_model``."""
        warnings.warn(
            "Model.dense_side is now Model.reference_model", DeprecationWarning, stacklevel=2
        )
        return self.reference_model

    @property
    def causal(self) -> bool:
        """True for a language model, which writes text; False for an encoder."""
        return family_of(self.hf).causal

    @property
    def max_length(self) -> int:
        """Longest text in tokens that the model was made for."""
        return family_of(self.hf).max_length(self.hf.config)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a long text to cut windows from; an encoder's without special tokens."""
        found = self.tokenizer(text, verbose=False, add_special_tokens=self.causal)["input_ids"]
        return list(found)

    @cached_property
    def added_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that an encoder has before and behind every text: special tokens, and a prefix if it has one."""
        if self.causal or self.tokenizer.cls_token_id is None:
            return (), ()
        found = self.tokenizer("a", return_special_tokens_mask=True, verbose=False)
        ids, mask = found["input_ids"], found["special_tokens_mask"]
        first, last = mask.index(0), mask[::-1].index(0)
        return tuple(ids[:first]), tuple(ids[len(ids) - last :])

    def frame(self, ids: Sequence[int]) -> list[int]:
        """A window of token ids as the model takes it: an encoder's between the tokens that are added.

        The frame takes the place of the first and last tokens, so that lengths stay what they are.
        """
        first, last = self.added_tokens
        return [*first, *ids[len(first) : len(ids) - len(last)], *last]

    def framed(self, ids: Sequence[int]) -> list[int]:
        """Deprecated name of ``frame``."""
        warnings.warn("Model.framed is now Model.frame", DeprecationWarning, stacklevel=2)
        return self.frame(ids)

    def resolve(self, policy: Policy, length: int) -> Policy:
        """The policy with numbers for what it leaves to a default, for a text of ``length`` tokens."""
        return self.gates[0].resolve(policy, length)

    @property
    def gates(self) -> list[PairGate]:
        """The gates, in layer order."""
        return [module.saa_gate for module in family_of(self.hf).attentions(self.hf)]  # type: ignore[misc]


@dataclass(frozen=True)
class Fingerprint:
    """Everything that a figure of a model depends on, as sha256.

    Args:
        weights: names and values of all parameters that a dense run uses, a task's head included.
        gates: those of pair and token gates, and each layer's slack.
        dtype: of the weights; the same model in another one has other weights.
    """

    weights: str
    gates: str
    dtype: str


def fingerprint(model: Model) -> Fingerprint:
    """Reads every weight once: about a second per GiB."""
    weights, gates = hashlib.sha256(), hashlib.sha256()
    modules = [model.hf] if model.task is None else [model.hf, model.task.head]
    for module in modules:
        for name, tensor in module.state_dict().items():
            part = weights if GATES.search(name) is None else gates
            part.update(name.encode())
            part.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    gates.update(repr([gate.calibration for gate in model.gates]).encode())
    return Fingerprint(weights.hexdigest(), gates.hexdigest(), str(model.dtype))
