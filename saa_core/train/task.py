"""From labelled texts to a task folder: both stages, what each share of the work costs, the default.

Knows examples and a model; knows nothing about files of texts. The default share is chosen on
validation texts, every figure that is stored beside it comes from test texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saa_core.attach import Model
from saa_core.errors import GateError, PolicyError, TextError
from saa_core.task import Description, describe, read_task
from saa_core.train.batches import Lot, lot
from saa_core.train.evaluate import interval
from saa_core.train.labelled import Example
from saa_core.train.tokens import Answers, Stages, TokenConfig, TokenStep
from saa_core.types import Policy
from saa_core.work import flops_against_dense

SHARES = (0.7, 0.5, 0.35)
TRIED = (0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35)
"""Shares among which the default is chosen."""
TOLERANCE = 0.005
"""Share of validation texts that the default may get wrong beyond dense."""
GRANTED = 0.5
"""Standard errors of that share that are granted, since it is never known exactly."""
LEAST_VALIDATION = 20
"""With fewer validation texts nothing can be said about a share, and the task stays dense."""
HELD_OUT = {"validation": 2000, "test": 2000}
"""Texts that are taken of the other two splits at most."""
CALIBRATED = 16_384
"""Tokens of validation texts that the shares are calibrated on, at most."""


@dataclass(frozen=True)
class TaskQuality:
    """One share of the work on test texts.

    Args:
        wanted: share of the token work that was asked for; 1 is the dense side.
        token_share: share that was done; flops_share: of all layers' operations, gates included.
        accuracy: share of texts that were right; lo, hi: 95 % interval of it (bootstrap).
        changed: share of texts whose label differs from the dense side's.
    """

    wanted: float
    token_share: float
    flops_share: float
    accuracy: float
    lo: float
    hi: float
    changed: float
    texts: int


class TaskTraining:
    """One task from examples to a folder; iterate over :meth:`steps`, then call :meth:`finish`.

    Args:
        limit: texts to train on at most.
        teacher: task folder whose dense side is taken instead of training one.

    Raises:
        TextError: a split has no text.
        GateError: the teacher is no task folder, or for other labels or another model.
        PolicyError: ``limit`` is no whole number >= 1.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        examples: Sequence[Example],
        config: TokenConfig | None = None,
        *,
        limit: int = 8000,
        teacher: str | Path | None = None,
    ) -> None:
        if not isinstance(limit, int) or limit < 1:
            raise PolicyError(f"limit={limit!r} must be a whole number of texts >= 1")
        self.model, self.name, self.config = model, name, config or TokenConfig()
        self.labels = tuple(sorted({example.label for example in examples}))
        self.lots: dict[str, Lot] = {}
        for split in ("train", "validation", "test"):
            most = limit if split == "train" else HELD_OUT[split]
            own = [example for example in examples if example.split == split][:most]
            if not own:
                raise TextError(f"data has no text in the split {split!r}; give more texts")
            index = [self.labels.index(example.label) for example in own]
            texts = [example.text for example in own]
            self.lots[split] = lot(model, texts, index, self.config.longest)
        self.teacher = None if teacher is None else Path(teacher)
        if self.teacher is not None:
            known = read_task(self.teacher, "teacher")
            if known.labels != self.labels:
                raise GateError(
                    f"teacher={str(teacher)!r} tells apart {', '.join(known.labels)}; the data has "
                    f"{', '.join(self.labels)}"
                )
        self.stages = Stages(model, len(self.labels), self.config)
        if self.teacher is not None:
            self.stages.take_dense(self.teacher)

    def steps(self) -> Iterator[TokenStep]:
        """Trains both stages; resumes where a checkpoint stands."""
        if self.teacher is None:
            yield from self.stages.dense(self.lots["train"])
        yield from self.stages.sparse(self.lots["train"])

    def finish(
        self, folder: str | Path, *, training: Mapping[str, Any], shares: Sequence[float] = SHARES
    ) -> list[TaskQuality]:
        """Calibrates the shares and chooses the default on validation texts, measures every share on
        the test texts, and writes the folder."""
        self.stages.calibrate(self.lots["validation"].first(CALIBRATED))
        share = self.choose()
        wanted = sorted({*shares, share} - {1.0}, reverse=True)
        dense = self._answers("test", "dense", 1.0)
        rows = [
            self.quality("dense", 1.0, dense),
            *(self.quality("sparse", s, dense) for s in wanted),
        ]
        (Path(folder) / "task.json").unlink(missing_ok=True)  # never the old one with new weights
        self.stages.save(folder)
        kept = {split: len(own) for split, own in self.lots.items()}
        about = Description(
            task=self.name,
            model=self.model.spec.name,
            layers=len(self.stages.packing.layers),
            labels=self.labels,
            width=self.config.width,
            side="dense" if share >= 1 else "sparse",
            policy=Policy(mass=1.0, tokens=None if share >= 1 else share),
            shares=self.config.shares,
            longest=self.config.longest,
            training={
                **training,
                "config": asdict(self.config) | {"checkpoint": None},
                "texts": kept,
            },
            evaluation={"split": "test", "quality": [asdict(row) for row in rows]},
        )
        describe(Path(folder), about)
        return rows

    def choose(self) -> float:
        """The smallest share that stays within the tolerance on validation texts; 1 (dense) if there is
        none.

        Less work never loses less, but a few hundred texts cannot tell half a point from chance: what is
        measured is made monotone first, and half a standard error is granted.
        """
        dense = self._right(self._answers("validation", "dense", 1.0))
        if len(dense) < LEAST_VALIDATION:
            return 1.0
        lost = [dense - self._right(self._answers("validation", "sparse", s)) for s in TRIED]
        granted = [TOLERANCE + GRANTED * float(own.std()) / len(own) ** 0.5 for own in lost]
        fitted = rising([float(own.mean()) for own in lost])
        fitting = [s for s, f, most in zip(TRIED, fitted, granted, strict=True) if f <= most]
        return min(fitting, default=1.0)

    def quality(self, side: str, wanted: float, dense: Answers) -> TaskQuality:
        """Accuracy and work of one share on the test texts."""
        own = self._answers("test", side, wanted) if side != "dense" else dense
        truth = torch.tensor(self.lots["test"].labels)
        labels = own.logits.argmax(-1)
        right = (labels == truth).float().tolist()
        lo, hi = interval(right)
        done, full = flops_against_dense(self.model, own.needed, gates=wanted < 1)
        return TaskQuality(
            wanted=wanted,
            token_share=own.token_share,
            flops_share=float(done.sum() / full.sum()),
            accuracy=sum(right) / len(right),
            lo=lo,
            hi=hi,
            changed=float((labels != dense.logits.argmax(-1)).float().mean()),
            texts=len(truth),
        )

    def _answers(self, split: str, side: str, share: float) -> Answers:
        return self.stages.answers(self.lots[split], side, share)

    def _right(self, found: Answers) -> Tensor:
        """1 per validation text that is right, else 0."""
        truth = torch.tensor(self.lots["validation"].labels)
        return (found.logits.argmax(-1) == truth).float()


def rising(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls, by least squares (isotonic regression)."""

    def mean(first: int, last: int) -> float:
        return sum(values[first : last + 1]) / (last + 1 - first)

    count = len(values)
    return [
        max(min(mean(j, k) for k in range(i, count)) for j in range(i + 1)) for i in range(count)
    ]
