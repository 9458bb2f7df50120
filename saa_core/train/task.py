"""From labelled texts to a task folder: both stages, what each share of the work costs, the default.

Knows examples and a model; knows nothing about files of texts. The default share is chosen on
validation texts, every figure that is stored beside it comes from test texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from saa_core.attach import Model
from saa_core.errors import TextError
from saa_core.packed import encode
from saa_core.task import describe
from saa_core.train.evaluate import interval
from saa_core.train.labelled import Example
from saa_core.train.tokens import Lot, Stages, TokenConfig, TokenStep, lot
from saa_core.types import Policy
from saa_core.work import encoder_flops

SHARES = (0.7, 0.5, 0.35)
TRIED = (0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35)
"""Shares among which the default is chosen."""
TOLERANCE = 0.005
"""Share of validation texts that the default may get wrong beyond dense."""


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

    Raises:
        TextError: a split has no text.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        examples: Sequence[Example],
        config: TokenConfig | None = None,
        *,
        limit: int = 8000,
    ) -> None:
        self.model, self.name, self.config = model, name, config or TokenConfig()
        self.labels = tuple(sorted({example.label for example in examples}))
        self.lots: dict[str, Lot] = {}
        for split in ("train", "validation", "test"):
            own = [example for example in examples if example.split == split][:limit]
            if not own:
                raise TextError(f"data has no text in the split {split!r}; give more texts")
            index = [self.labels.index(example.label) for example in own]
            texts = [example.text for example in own]
            self.lots[split] = lot(model, texts, index, self.config.longest)
        self.stages = Stages(model, len(self.labels), self.config)

    def steps(self) -> Iterator[TokenStep]:
        """Trains both stages; resumes where a checkpoint stands."""
        yield from self.stages.dense(self.lots["train"])
        yield from self.stages.sparse(self.lots["train"])

    def finish(
        self, folder: str | Path, *, training: Mapping[str, Any], shares: Sequence[float] = SHARES
    ) -> list[TaskQuality]:
        """Chooses the default, measures every share on the test texts, and writes the folder."""
        share = self.choose()
        rows = [
            self.quality(1.0),
            *(self.quality(wanted) for wanted in sorted({*shares, share}, reverse=True)),
        ]
        self.stages.save(folder)
        describe(
            Path(folder),
            self.name,
            self.model.spec.name,
            self.labels,
            width=self.config.width,
            policy=Policy(mass=1.0, tokens=None if share >= 1 else share),
            training={**training, "config": asdict(self.config) | {"checkpoint": None}}
            | {"texts": {split: len(own) for split, own in self.lots.items()}},
            evaluation={"split": "test", "quality": [asdict(row) for row in rows]},
        )
        return rows

    def choose(self) -> float:
        """The smallest share that stays within the tolerance on validation texts, and so do all
        larger ones; 1 (dense) if there is none."""
        found = 1.0
        truth = torch.tensor(self.lots["validation"].labels)

        def right(side: str, share: float) -> float:
            answers = self.stages.logits(self.lots["validation"], side, share).argmax(-1)
            return float((answers == truth).float().mean())

        dense = right("dense", 1.0)
        for share in TRIED:
            if right("sparse", share) < dense - TOLERANCE:
                break
            found = share
        return found

    def quality(self, wanted: float) -> TaskQuality:
        """Accuracy and work of one share on the test texts."""
        own, side = self.lots["test"], "dense" if wanted >= 1 else "sparse"
        truth = torch.tensor(own.labels)
        answers = self.stages.logits(own, side, wanted).argmax(-1)
        dense = self.stages.logits(own, "dense").argmax(-1)
        right = (answers == truth).float().tolist()
        lo, hi = interval(right)
        tokens, done, flops, dense_flops = self._work(own, side, wanted)
        return TaskQuality(
            wanted=wanted,
            token_share=done / tokens,
            flops_share=flops / dense_flops,
            accuracy=sum(right) / len(right),
            lo=lo,
            hi=hi,
            changed=float((answers != dense).float().mean()),
            texts=len(own),
        )

    def _work(self, own: Lot, side: str, wanted: float) -> tuple[int, float, int, int]:
        """Tokens, tokens computed (mean over layers), operations, and those of dense."""
        self.stages.adapter(side)
        policy = None if wanted >= 1 else Policy(mass=1.0, tokens=wanted)
        tokens, done, flops, dense = 0, 0.0, 0, 0
        for start in range(0, len(own), 64):
            found = encode(self.model, own.ids[start : start + 64], policy)
            for needed in found.needed.T.tolist():
                tokens += needed[0]
                done += sum(needed) / len(needed)
                flops += encoder_flops(self.model, needed, gates=wanted < 1)
                dense += encoder_flops(self.model, [needed[0]] * len(needed), gates=False)
        return tokens, done, flops, dense
