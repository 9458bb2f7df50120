"""Text -> label, at the share of the work that a policy asks for, one text or many at a time.

Where a guard asks for it, texts whose label is not clear are answered by the task's reference model. Batches are packed: texts of different lengths stand behind each other without padding, and tokens that
their gate drops are not computed any more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saa_core.errors import ModelError, PolicyError, TextError, check_text
from saa_core.model import Model
from saa_core.run.execute import Cancelling, execute
from saa_core.run.flops import flops_against_dense
from saa_core.task import Task
from saa_core.types import Policy, Prediction


@dataclass(frozen=True)
class Answered:
    """The answers for a batch of texts, and what they cost.

    Args:
        probabilities: [B, C].
        needed: tokens that each layer computed, int64 [B, L]; what the reference model did is not in it.
        done, full: operations that were done, the reference model's included, and those of dense alone,
            int64 [B] each.
        dense: texts that the reference model answered, bool [B]: beside the model, or in its place.
    """

    probabilities: Tensor
    needed: Tensor
    done: Tensor
    full: Tensor
    dense: Tensor

    @property
    def flops_share(self) -> float:
        """Operations of the whole batch against dense."""
        return float(self.done.sum() / self.full.sum())


def task_of(model: Model) -> Task:
    """The task that a model was loaded for.

    Raises:
        ModelError: it was loaded for none.
    """
    if model.task is None:
        raise ModelError(
            f"model={model.spec.title!r} was loaded for no task; "
            'use saa_core.load("minilm", task="questions"), for example'
        )
    return model.task


def classify(
    model: Model,
    texts: Sequence[str],
    policy: Policy | None = None,
    *,
    batch: int = 32,
    cut: bool = False,
) -> Iterator[Prediction]:
    """Labels texts, in their order, ``batch`` at a time. All texts are checked before the first.

    Args:
        policy: ``tokens`` says which share of the token work to do; the task's default by default.
            ``Policy(mass=1.0)`` drops nothing.
        cut: cut texts to the length that the task was trained and measured with; a text that is too
            long for the model is refused otherwise.

    Raises:
        ModelError: the model was loaded for no task.
        TextError: a text is empty, not valid Unicode, or too long.
        PolicyError: the policy drops tokens and the model is the task's reference model, ``texts`` is one
            string, or ``batch`` is no whole number >= 1.
    """
    task = task_of(model)
    if isinstance(texts, str):
        raise PolicyError("texts is one string; give a list of texts")
    if not isinstance(batch, int) or batch < 1:
        raise PolicyError(f"batch={batch!r} must be a whole number >= 1")
    policy = model.spec.policy if policy is None else policy
    longest = task.longest if cut else None
    ids = [token_ids(model, text, index, longest) for index, text in enumerate(texts)]
    for start in range(0, len(ids), batch):
        found = answers(model, ids[start : start + batch], policy, batch=batch, fall_back=True)
        yield from predictions(task, found)


def predictions(task: Task, found: Answered) -> Iterator[Prediction]:
    """Answers as labels, in their order."""
    shares = (found.done / found.full).tolist()
    rows, own = found.probabilities.tolist(), found.needed.tolist()
    for row, needed, flops, dense in zip(rows, own, shares, found.dense.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        yield Prediction(
            label=task.labels[best],
            probabilities=dict(zip(task.labels, row, strict=True)),
            tokens=needed[0],
            token_share=sum(needed) / (needed[0] * len(needed)),
            flops_share=flops,
            dense=dense,
        )


def answers(
    model: Model,
    ids: Sequence[Sequence[int]],
    policy: Policy | None = None,
    *,
    batch: int = 64,
    fall_back: bool = False,
    cancelled: Cancelling = None,
) -> Answered:
    """Answers for token ids, ``batch`` texts of similar length at a time; a guard's margin is kept.

    Args:
        policy: None drops nothing.
        fall_back, cancelled: see :func:`saa_core.run.execute.execute`; figures of a policy do not fall back.

    Raises:
        ModelError: the model was loaded for no task.
        TextError, PolicyError: see :func:`saa_core.run.varlen.encode`.
    """
    task_of(model)
    dropping = policy is not None and policy.tokens is not None and policy.tokens < 1
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    options: dict[str, Any] = {"packed": True, "fall_back": fall_back, "cancelled": cancelled}
    found = [execute(model, [ids[i] for i in part], policy, **options) for part in parts]
    back = torch.tensor([index for part in parts for index in part]).argsort()
    probabilities = torch.cat(
        [each.probabilities for each in found if each.probabilities is not None]
    )
    asked = torch.cat([each.asked for each in found if each.asked is not None])
    needed = [each.needed.cpu() for each in found if each.needed is not None]
    costs = [
        flops_against_dense(model, own, gates=dropping and not each.fell_back)
        for own, each in zip(needed, found, strict=True)
    ]
    done, full = (torch.cat(parts) for parts in zip(*costs, strict=True))
    instead = torch.cat([torch.full((len(e.lengths),), e.fell_back) for e in found])
    return Answered(
        probabilities[back],
        torch.cat(needed)[back],
        (done + full * asked)[back],
        full[back],
        (asked | instead)[back],
    )


def token_ids(model: Model, text: str, index: int, longest: int | None) -> list[int]:
    """Of the text at ``index`` of a list, cut to ``longest`` tokens if that is given.

    Raises:
        TextError: the text is empty, not valid Unicode, or too long.
    """
    check_text(text, f"texts[{index}]")
    shorten = {} if longest is None else {"truncation": True, "max_length": longest}
    ids: list[int] = model.tokenizer(text, verbose=False, **shorten)["input_ids"]
    if len(ids) > model.max_length:
        raise TextError(
            f"texts[{index}] has {len(ids)} tokens, and {model.spec.name} takes at most "
            f"{model.max_length}; shorten it, or let texts be cut",
            limit=model.max_length,
            length=len(ids),
        )
    return ids
