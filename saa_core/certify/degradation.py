"""What a policy costs text by text: labels changed, perplexity, missed mass; and the work that it does.

Every text is a request of its own and goes through the model as a user's would, a guard's corrections
and its dense rerun included. The reference model is run once and kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core.attention import Call
from saa_core.certify.limits import QUANTITIES
from saa_core.errors import ModelError, PolicyError, TextError, choice
from saa_core.guard import LOOKED
from saa_core.model import Model
from saa_core.run.classify import answers, task_of, token_ids
from saa_core.run.execute import execute
from saa_core.run.text import encode
from saa_core.train.evaluate import next_token_loss
from saa_core.types import Policy, Progress


@dataclass(frozen=True)
class Degradation:
    """One policy on all texts.

    Args:
        losses: per text, as measured and not clipped: 0 or 1 for a label that is or is not the reference
            model's; perplexity / dense perplexity - 1; missed mass.
        work: per text, share of dense: operations of a task's layers, token gates included; of pair
            policies kept / allowed pairs, with the queries that a guard probes.
    """

    policy: Policy
    losses: tuple[float, ...]
    work: tuple[float, ...]

    @property
    def mean_work(self) -> float:
        return sum(self.work) / len(self.work)

    def part(self, indices: Sequence[int]) -> "Degradation":
        """The same of some of the texts."""
        return Degradation(
            self.policy,
            tuple(self.losses[index] for index in indices),
            tuple(self.work[index] for index in indices),
        )


class DegradationMeter:
    """Measures policies on the same texts, dense against sparse.

    Args:
        model: loaded for a task if labels are compared.
        texts: requests; those of a task are cut to what it was made for, others are refused where
            they are too long.
        quantity: one of QUANTITIES.
        baseline: the dense model to compare with: a task's reference model, or the model without its
            adapter. The model itself by default, where that is the original.

    Raises:
        ModelError: the model cannot have this loss, or needs a baseline.
        TextError: there are no texts, or one cannot be used.
    """

    def __init__(
        self, model: Model, texts: Sequence[str], quantity: str, baseline: Model | None = None
    ) -> None:
        if quantity not in QUANTITIES:
            raise PolicyError(choice("quantity", quantity, QUANTITIES))
        if isinstance(texts, str) or not texts:
            raise TextError("texts is empty or one string; give a list of texts")
        self.model, self.quantity = model, quantity
        self.baseline = baseline_for(model, quantity, baseline)
        if quantity == "label_change":
            longest = task_of(model).longest
            self.ids = [token_ids(model, text, i, longest) for i, text in enumerate(texts)]
        else:
            self.ids = [list(encode(model, text)["input_ids"]) for text in texts]
            if min(map(len, self.ids)) < 2:
                raise TextError("texts: each needs two tokens at least, and one of them has fewer")
        self._labels: Tensor | None = None
        self._dense: list[float | None] = [None] * len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, policy: Policy, progress: Progress | None = None) -> Degradation:
        """One policy on all texts.

        Raises:
            PolicyError: the policy cannot be used with this model, or has no such loss.
        """
        if self.quantity == "label_change":
            return self._label_changes(policy)
        if policy.tokens is not None:
            raise PolicyError(
                f"tokens={policy.tokens!r}: {self.quantity} is measured of pair policies; set tokens to "
                "None, or compare labels"
            )
        found = []
        for index, ids in enumerate(self.ids):
            found.append(self._one(index, ids, policy))
            if progress:
                progress(index + 1, len(self.ids))
        losses, work = zip(*found, strict=True)
        return Degradation(policy, losses, work)

    def _label_changes(self, policy: Policy) -> Degradation:
        if self._labels is None:
            self._labels = answers(self.baseline, self.ids).probabilities.argmax(-1)
        found = answers(self.model, self.ids, policy)
        changed = (found.probabilities.argmax(-1) != self._labels).float()
        return Degradation(
            policy, tuple(changed.tolist()), tuple((found.done / found.full).tolist())
        )

    def _one(self, index: int, ids: list[int], policy: Policy) -> tuple[float, float]:
        """Loss and work of one text; what a guard could not show to be within its limit is rerun
        densely, as :func:`saa_core.run` does it."""
        perplexity = self.quantity == "perplexity"
        found = execute(self.model, [ids], policy, "summary" if perplexity else "full")
        first = found.call if found.rejected is None else found.rejected
        work = found.reruns + _density(first) + _probed(first, len(ids))
        if not perplexity:
            return 0.0 if found.reruns else _missed(found.call), work
        dense = self._dense[index]
        if dense is None:
            states = execute(self.baseline, [ids]).states
            dense = self._dense[index] = next_token_loss(self.baseline, states, ids)
        difference = next_token_loss(self.model, found.states, ids) - dense
        return math.expm1(min(difference, 50.0)), work


def _density(call: Call) -> float:
    return float(torch.stack([record.density for record in call.layers.values()]).mean())


def _missed(call: Call) -> float:
    kept = [r.retained_mass for r in call.layers.values() if r.retained_mass is not None]
    return 1.0 - float(torch.stack(kept).mean())


def _probed(call: Call, length: int) -> float:
    """Pairs that a guard's two samples score, as a share of all: counted from shapes."""
    checked = call.checked()
    if checked is None:
        return 0.0
    return (1.0 + LOOKED) * checked.queries / len(call.layers) / length


def baseline_for(model: Model, quantity: str, baseline: Model | None = None) -> Model:
    """The dense model that a loss is counted from.

    Args:
        quantity: one of QUANTITIES.
        baseline: the one to take, if the model cannot be its own.

    Raises:
        ModelError: the model cannot have this loss, or needs another baseline.
    """
    if quantity == "label_change":
        return _reference_for(model, baseline)
    return _original(model, baseline, quantity)


def _reference_for(model: Model, baseline: Model | None) -> Model:
    """What labels are compared with.

    Raises:
        ModelError: it tells apart other labels.
    """
    task = task_of(model)
    if baseline is None:
        return model.reference_model
    if task_of(baseline).labels != task.labels:
        raise ModelError(
            f"baseline={baseline.spec.title!r} tells apart {', '.join(task_of(baseline).labels)}, and "
            f"model={model.spec.title!r} {', '.join(task.labels)}"
        )
    return baseline


def _original(model: Model, baseline: Model | None, quantity: str) -> Model:
    if quantity == "perplexity" and not model.causal:
        raise ModelError(
            f"model={model.spec.name!r} is an encoder and has no perplexity; limit missed_mass, or "
            "label_change of a task"
        )
    if baseline is None and model.spec.adapter is not None:
        raise ModelError(
            f"model={model.spec.title!r} has an adapter; give the model without it as baseline"
        )
    return baseline or model
