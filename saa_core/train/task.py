"""From labelled texts to a task folder: both stages, what each share of the work costs, the default.

The default share is chosen on
validation texts, every figure that is stored beside it comes from test texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saa_core.data.labelled import LabelledText
from saa_core.errors import GateError, PolicyError, TextError
from saa_core.model import Model
from saa_core.run.flops import flops_against_dense
from saa_core.task import Description, describe, margins, read_task
from saa_core.train.batches import TokenizedTexts, tokenize_texts
from saa_core.train.config import TokenConfig
from saa_core.train.evaluate import interval
from saa_core.train.tokens import Answers, Stages, TokenStep
from saa_core.types import Guard, Policy

SHARES = (0.7, 0.5, 0.35)
TRIED = (0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35)
"""Shares among which the default is chosen."""
TOLERANCE = 0.005
"""Share of validation texts that the default may get wrong beyond dense."""
MARGINS = (0.0, 0.3, 0.5)
"""Margins under which the reference model is asked as well, among which the default's is chosen."""
LEAST_VALIDATION = 20
"""With fewer validation texts nothing can be said about a share, and the task stays dense."""
HELD_OUT = (2000, 2000)
"""Texts that are taken of the validation and of the test split at most."""
CALIBRATED = 8_192
"""Tokens of validation texts that the shares are calibrated on, at most."""


@dataclass(frozen=True)
class TaskQuality:
    """One share of the work on test texts.

    Args:
        wanted: share of the token work that was asked for; 1 is the reference model.
        token_share: share that was done; flops_share: of all layers' operations, gates included.
        accuracy: share of texts that were right; lo, hi: 95 % interval of it (bootstrap).
        changed: share of texts whose label differs from the reference model's.
        margin: under which the reference model was asked; asked: share of texts for which it was.
    """

    wanted: float
    token_share: float
    flops_share: float
    accuracy: float
    lo: float
    hi: float
    changed: float
    texts: int
    margin: float = 0.0
    asked: float = 0.0


def quality_lines(rows: Sequence[TaskQuality]) -> Iterator[str]:
    """A table of what each share of the work costs."""
    yield (
        "tokens asked   tokens done   dense asked   operations   accuracy (95 % interval)   "
        "labels changed"
    )
    for row in rows:
        yield (
            f"{100 * row.wanted:10.0f} % {100 * row.token_share:11.1f} % {100 * row.asked:11.1f} % "
            f"{100 * row.flops_share:10.1f} % "
            f"{100 * row.accuracy:10.1f} % ({100 * row.lo:.1f} to {100 * row.hi:.1f}) "
            f"{100 * row.changed:13.1f} %"
        )


class TaskTraining:
    """One task from examples to a folder; iterate over :meth:`steps`, then call :meth:`finish`.

    Args:
        limit: texts to train on at most.
        held_out: texts of the validation and of the test split to take at most.
        teacher: task folder whose reference model is taken instead of training one.

    Raises:
        TextError: a split has no text.
        GateError: the teacher is no task folder, or for other labels or another model.
        PolicyError: ``limit`` or ``held_out`` is no whole number >= 1.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        examples: Sequence[LabelledText],
        config: TokenConfig | None = None,
        *,
        limit: int = 8000,
        held_out: tuple[int, int] = HELD_OUT,
        teacher: str | Path | None = None,
    ) -> None:
        most = {"train": limit, "validation": held_out[0], "test": held_out[1]}
        for split, number in most.items():
            if not isinstance(number, int) or number < 1:
                named = f"limit={limit!r}" if split == "train" else f"held_out={held_out!r}"
                raise PolicyError(f"{named} must be a whole number of texts >= 1 ({split})")
        self.model, self.name, self.config = model, name, config or TokenConfig()
        self.labels = tuple(sorted({example.label for example in examples}))
        self.lots: dict[str, TokenizedTexts] = {}
        for split, number in most.items():
            own = [example for example in examples if example.split == split][:number]
            if not own:
                raise TextError(f"data has no text in the split {split!r}; give more texts")
            index = [self.labels.index(example.label) for example in own]
            texts = [example.text for example in own]
            self.lots[split] = tokenize_texts(model, texts, index, self.config.longest)
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
        policy = self.choose()
        wanted = [(share, 0.0) for share in shares]
        if policy.tokens is not None:
            wanted.append((policy.tokens, policy.guard.margin if policy.guard else 0.0))
        dense = self._answers("test", "dense", 1.0)
        rows = [self.quality(1.0, 0.0, dense)]
        rows += [self.quality(*each, dense) for each in sorted(set(wanted), reverse=True)]
        (Path(folder) / "task.json").unlink(missing_ok=True)  # never the old one with new weights
        self.stages.save(folder)
        kept = {split: len(own) for split, own in self.lots.items()}
        about = Description(
            task=self.name,
            model=self.model.spec.name,
            layers=len(self.stages.packing.layers),
            labels=self.labels,
            width=self.config.width,
            side="dense" if policy.tokens is None else "sparse",
            policy=policy,
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

    def choose(self) -> Policy:
        """The policy with the least work that stays within the tolerance on validation texts; dense if
        there is none.

        Less work never loses less, but a few hundred texts cannot tell half a point from chance: what is
        measured is made monotone first. Nothing is granted for chance: the least of many settings is the
        one that was lucky.
        """
        dense = self._answers("validation", "dense", 1.0)
        best, found = 1.0, Policy(mass=1.0)
        if len(dense.logits) < LEAST_VALIDATION:
            return found
        right = self._right("validation", dense.logits.argmax(-1))
        sparse = [self._answers("validation", "sparse", share) for share in TRIED]
        for margin in MARGINS:
            mixed = [self._mixed(own, dense, margin) for own in sparse]
            lost = [right - self._right("validation", labels) for labels, _, _ in mixed]
            fitted = rising([float(own.mean()) for own in lost])
            for share, (_, work, _), mean in zip(TRIED, mixed, fitted, strict=True):
                if mean <= TOLERANCE and work < best:
                    guard = Guard(missed_mass=None, margin=margin) if margin else None
                    best, found = work, Policy(mass=1.0, tokens=share, guard=guard)
        return found

    def quality(self, wanted: float, margin: float, dense: Answers) -> TaskQuality:
        """Accuracy and work of one share on the test texts; 1 is the reference model.

        Args:
            dense: what the reference model answers.
        """
        own = self._answers("test", "sparse", wanted) if wanted < 1 else dense
        labels, work, asked = self._mixed(own, dense, margin)
        right = self._right("test", labels).tolist()
        lo, hi = interval(right)
        return TaskQuality(
            wanted=wanted,
            token_share=own.token_share,
            flops_share=work,
            accuracy=sum(right) / len(right),
            lo=lo,
            hi=hi,
            changed=float((labels != dense.logits.argmax(-1)).float().mean()),
            texts=len(right),
            margin=margin,
            asked=asked,
        )

    def _mixed(self, own: Answers, dense: Answers, margin: float) -> tuple[Tensor, float, float]:
        """Labels where the reference model answers below a margin; operations against dense, and the share of
        texts for which it was asked."""
        asked = margins(own.logits.softmax(-1)) < margin
        labels = torch.where(asked, dense.logits.argmax(-1), own.logits.argmax(-1))
        done, full = flops_against_dense(self.model, own.needed, gates=own is not dense)
        return labels, float((done + full * asked).sum() / full.sum()), float(asked.float().mean())

    def _answers(self, split: str, side: str, share: float) -> Answers:
        return self.stages.answers(self.lots[split], side, share)

    def _right(self, split: str, labels: Tensor) -> Tensor:
        """1 per text that is right, else 0."""
        return (labels == torch.tensor(self.lots[split].labels)).float()


def rising(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls, by least squares (isotonic regression)."""

    def mean(first: int, last: int) -> float:
        return sum(values[first : last + 1]) / (last + 1 - first)

    count = len(values)
    return [
        max(min(mean(j, k) for k in range(i, count)) for j in range(i + 1)) for i in range(count)
    ]
