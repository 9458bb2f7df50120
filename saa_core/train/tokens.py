"""Fine-tunes an encoder for a task, then trains token gates in it, one set for every share of work.

Two stages that end in low-rank adapters (LoRA, arXiv 2106.09685) beside the model's own weights. "dense"
learns the labels and drops nothing: it trains every matrix of the layers, and keeps of each change the
nearest one of low rank. "sparse" trains that adapter on, with gates in front of every layer but the first:
the share of work is drawn anew for each batch, gates decide by a noisy step whose gradient is that of
its sigmoid, and the loss is the labels', the divergence from the reference model's answers, and the
distance between the share of tokens that was kept and the one that was drawn. The reference model knows its
training texts by heart, so half of the texts lose their label and some of their words to random ones:
only the answer to such a text says how the reference model decides.

Dropped tokens are masked here (masked.py), so that gradients flow; run/varlen.py executes the same decisions
on fewer tokens.

Shapes: B texts, N tokens, E hidden size, C labels.
"""

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from saa_core.errors import PolicyError
from saa_core.families.packing import Packing
from saa_core.gates.token import SHARES, fresh_linear
from saa_core.loading import bfloat16_is_fast
from saa_core.model import Model
from saa_core.run.varlen import encode_all, packing_of, special_tokens
from saa_core.task import SIDES, add_token_gates, read_head, save_side
from saa_core.train import lora
from saa_core.train.batches import NO_LABEL, TokenizedTexts, order, pad_batch, replace_words
from saa_core.train.checkpoint import FREE, Checkpoint, StageConfig
from saa_core.train.config import TokenConfig
from saa_core.train.distil import schedule
from saa_core.train.masked import forward_masked, mean_states
from saa_core.train.teacher import Teacher
from saa_core.types import Policy

ADAPTER = {side: f"saa_{side}" for side in SIDES}
"""Names of the adapters in the model; BERT has modules that are called "dense"."""
REACH, FIRST, TRIALS, CLOSE = 4.0, 0.25, 10, 0.005
"""How far calibration may move a shift (log-odds), by how much at first, how often it may look, and when it is
close enough."""


@dataclass(frozen=True)
class TokenStep:
    """One batch: stage, loss (nats), share of the batch that was right, shares of work drawn and done."""

    stage: str
    step: int
    loss: float
    accuracy: float
    wanted: float
    share: float
    seconds: float


@dataclass(frozen=True)
class Answers:
    """Logits [texts, C], and the tokens that each layer computed, int64 [texts, L]."""

    logits: Tensor
    needed: Tensor

    @property
    def token_share(self) -> float:
        """Tokens computed / tokens, over all texts and layers."""
        return float(self.needed.sum() / (self.needed[:, 0].sum() * self.needed.shape[1]))


class Stages:
    """Both stages of one task in one model; iterate over `dense()`, then over `sparse()`.

    The model carries both adapters (PEFT, named in ADAPTER) and the gates from then on: save them with
    :meth:`save`, and load the model again for use.

    Raises:
        PolicyError: texts would be longer than the model takes, or what is computed in float32 (see
            ``half``) has weights in half precision.
        ModelError: the model's family cannot be packed.
    """

    def __init__(self, model: Model, labels: int, config: TokenConfig | None = None) -> None:
        self.model, self.config = model, config or TokenConfig()
        self.teacher = ""  # what tells the dense stage from others, where it was not trained here
        self.packing: Packing = packing_of(model)
        self.hidden = int(model.hf.config.hidden_size)
        if self.config.longest > model.max_length:
            raise PolicyError(
                f"longest={self.config.longest!r}: {model.spec.name} takes at most "
                f"{model.max_length} tokens"
            )
        if not self._half() and model.dtype != torch.float32:
            raise PolicyError(
                f"half={self.config.half!r} computes in float32 on this machine, which needs weights in "
                f"float32; the model has {model.dtype}"
            )
        model.hf.requires_grad_(False)
        linear = sorted(
            {
                name.rsplit(".", 1)[-1]
                for name, module in self.packing_modules()
                if isinstance(module, nn.Linear)
            }
        )
        draw = torch.Generator().manual_seed(self.config.seed)
        self.heads = {
            side: fresh_linear(self.hidden, labels, draw).to(model.device) for side in SIDES
        }
        for side, seed in zip(SIDES, (self.config.seed, self.config.seed + 1), strict=True):
            exclude = ".*(pooler|saa_).*"
            lora.add(
                *(model.hf, ADAPTER[side], linear, self.config.rank), seed=seed, exclude=exclude
            )
        self.gates = add_token_gates(self.packing, self.hidden, self.config.width)

    def packing_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module inside a layer, gates left out."""
        for layer in self.packing.layers:
            for name, module in layer.module.named_modules():
                if "saa_" not in name:
                    yield name, module

    def adapter(self, side: str) -> dict[str, nn.Parameter]:
        """The adapter's weights by name; they alone may learn, and they alone are in use."""
        self.model.hf.set_adapter(ADAPTER[side])
        self.model.hf.requires_grad_(False)
        return lora.weights(self.model.hf, ADAPTER[side])

    def dense(self, examples: TokenizedTexts) -> Iterator[TokenStep]:
        """Fine-tunes matrices and head on the labels; nothing is dropped.

        The adapter changes nothing until it takes what the matrices have learned, cut to its rank.
        """
        self.adapter("dense")
        matrices = lora.matrices(self.model.hf, ADAPTER["dense"])
        before = {name: matrix.detach().clone() for name, matrix in matrices.items()}
        for matrix in matrices.values():
            matrix.data = matrix.data.float()
        head = _named(self.heads["dense"], "head")
        groups = [(self.config.rate, matrices), (self.config.adapter_rate, head)]
        for (ids, mask, labels, _), step in self._batches(examples, "dense", groups):
            means, _ = self._forward(ids, mask, 1.0, None)
            logits = self.heads["dense"](means)
            yield from step(cross_entropy(logits, labels), logits, 1.0, 1.0)
        lora.take(self.model.hf, ADAPTER["dense"], before)
        self._freeze({**matrices, **head})

    def sparse(self, examples: TokenizedTexts) -> Iterator[TokenStep]:
        """Trains gates, and adapter and head on from where the dense stage left them."""
        self._copy_dense()
        parameters = self.adapter("sparse") | _named(self.heads["sparse"], "head")
        gates = self._gate_parameters()
        groups = [(self.config.adapter_rate, parameters), (self.config.gate_rate, gates)]
        teacher = Teacher(self.model, ADAPTER["dense"], self.heads["dense"], half=self._half())
        words = torch.tensor([i for own in examples.ids for i in own])
        words = words[~special_tokens(self.model, words)]
        for (ids, mask, labels, draw), step in self._batches(examples, "sparse", groups):
            wanted = draw.uniform(*self.config.shares)
            fixed = special_tokens(self.model, ids)
            ids, labels = replace_words(ids, labels, fixed, words, self.config.replaced, draw)
            answers = teacher.answers(ids, mask, labels != NO_LABEL)
            means, share = self._forward(ids, mask, wanted, draw)
            logits = self.heads["sparse"](means)
            loss = cross_entropy(logits, labels, reduction="sum") / len(labels)
            found, expected = log_softmax(logits, -1), log_softmax(answers, -1)
            apart = kl_div(found, expected, reduction="batchmean", log_target=True)
            loss = loss + self.config.distil * apart
            loss = loss + self.config.hold * (share - wanted).abs()
            yield from step(loss, logits, wanted, float(share.detach()))
        self._freeze(parameters | gates)

    def take_dense(self, folder: Path) -> None:
        """Takes the dense stage from a task folder instead of training it.

        Raises:
            GateError: there is none, or it is of another shape.
        """
        lora.fill(self.model.hf, ADAPTER["dense"], folder / "dense", "teacher")
        read_head(folder / "dense", self.heads["dense"], "teacher")
        parts = [self.heads["dense"].weight, *self.adapter("dense").values()]
        numbers = b"".join(part.detach().cpu().numpy().tobytes() for part in parts)
        self.teacher = hashlib.sha256(numbers).hexdigest()

    def calibrate(self, examples: TokenizedTexts) -> None:
        """Moves the gates' shifts so that the share of work that is asked for is the one that is done.

        Training decides by chance and use does not, so the two differ by several points.
        """
        low, high = self.config.shares
        offset = 0.0
        for index, wanted in enumerate(SHARES):
            if not low <= wanted <= high:
                continue
            before = [float(gate.shift[index]) for gate in self.gates]

            def too_much(
                offset: float,
                index: int = index,
                wanted: float = wanted,
                before: Sequence[float] = before,
            ) -> float:
                with torch.no_grad():
                    for gate, start in zip(self.gates, before, strict=True):
                        gate.shift[index] = start + offset
                return self.answers(examples, "sparse", wanted).token_share - wanted

            offset = find_root(too_much, offset)

    def answers(self, examples: TokenizedTexts, side: str, share: float = 1.0) -> "Answers":
        """What one side answers at a share of the work, and what it computes, on packed tokens."""
        self.adapter(side)
        head = self.heads[side]
        policy = None if share >= 1 else Policy(mass=1.0, tokens=share)
        means, needed = encode_all(self.model, examples.ids, policy)
        with torch.no_grad():
            logits = head(means.to(head.weight.device)).float().cpu()
        return Answers(logits, needed)

    def save(self, folder: str | Path) -> None:
        """Writes both sides; the description is up to the caller (:func:`saa_core.task.describe`)."""
        for side in SIDES:
            own = Path(folder) / side
            lora.write(self.model.hf, ADAPTER[side], own, self.model.spec.name)
            save_side(own, self.heads[side], self.gates if side == "sparse" else [])

    def _forward(
        self, ids_BN: Tensor, mask_BN: Tensor, wanted: float, draw: random.Random | None
    ) -> tuple[Tensor, Tensor]:
        """Mean final states [B, E] and the share of the token work, with dropped tokens masked."""
        noise = None
        if draw is not None:
            noise = torch.Generator().manual_seed(draw.randrange(2**31))
        with torch.autocast(ids_BN.device.type, torch.bfloat16, enabled=self._half()):
            x, share = forward_masked(
                self.packing, special_tokens(self.model, ids_BN), ids_BN, mask_BN, wanted, noise
            )
        return mean_states(x, mask_BN), share

    def _half(self) -> bool:
        return self.config.half and bfloat16_is_fast(self.model.device)

    def _batches(
        self,
        examples: TokenizedTexts,
        stage: str,
        groups: Sequence[tuple[float, Mapping[str, nn.Parameter]]],
    ) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor, random.Random], Any]]:
        """Batches of one stage, and what to call with the loss: optimiser, checkpoint, report.

        A batch is token ids [B, N], where they are real, labels [B], and what to draw from.

        Args:
            groups: highest learning rate and what learns with it.
        """
        config, total = self.config, self.config.steps[SIDES.index(stage)]
        learning = {name: p for _, named in groups for name, p in named.items()}
        optimizer = torch.optim.Adam(
            [{"params": list(named.values()), "highest": rate} for rate, named in groups],
            fused=self.model.device.type == "cpu" or None,
        )
        saved = None
        if config.checkpoint:
            saved = Checkpoint.of(self._stage_config(stage, examples), learning, optimizer)
        start = saved.restore() if saved else 0
        self.adapter(stage)
        self.model.hf.requires_grad_(False)  # an adapter in use need not learn
        for parameter in learning.values():
            parameter.requires_grad_(True)
        began = time.perf_counter()
        for index, rows in enumerate(order(examples, config.batch, total, config.seed)):
            if index < start:
                continue
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * schedule(index / total)
            optimizer.zero_grad(set_to_none=True)
            ids, mask = pad_batch([examples.ids[row] for row in rows], self.model)
            labels = torch.tensor([examples.labels[row] for row in rows], device=ids.device)
            batch = (ids, mask, labels, random.Random(f"{config.seed}/{index}"))

            def step(
                loss: Tensor,
                logits: Tensor,
                wanted: float,
                share: float,
                index: int = index,
                y: Tensor = labels,
            ) -> Iterator[TokenStep]:
                loss.backward()
                nn.utils.clip_grad_norm_(learning.values(), 1.0)
                optimizer.step()
                if saved and saved.due(index + 1):
                    saved.save(index + 1)
                right = float((logits.argmax(-1) == y).float().mean())
                seconds = time.perf_counter() - began
                yield TokenStep(
                    stage, index + 1, float(loss.detach()), right, wanted, share, seconds
                )

            yield batch, step

    def _stage_config(self, stage: str, examples: TokenizedTexts) -> StageConfig:
        fixed = {key: value for key, value in asdict(self.config).items() if key not in FREE}
        data = [self.model.spec.name, *map(list, examples.ids), list(examples.labels)]
        data += [self.teacher] if self.teacher else []
        return StageConfig(
            settings=json.dumps(fixed),
            data=hashlib.sha256(json.dumps(data).encode()).hexdigest(),
            stage=stage,
            steps=self.config.steps[SIDES.index(stage)],
            checkpoint=str(Path(self.config.checkpoint or ".") / stage),
            save_every=self.config.save_every,
        )

    def _gate_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"gate.{gate.layer}.{name}": parameter
            for gate in self.gates
            for name, parameter in gate.named_parameters()
        }

    def _copy_dense(self) -> None:
        """The sparse stage starts where the dense one ended."""
        named = dict(self.model.hf.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                if ADAPTER["sparse"] in name:
                    parameter.copy_(named[name.replace(ADAPTER["sparse"], ADAPTER["dense"])])
            self.heads["sparse"].load_state_dict(self.heads["dense"].state_dict())

    def _freeze(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for parameter in parameters.values():
            parameter.requires_grad_(False)


def find_root(rising: Callable[[float], float], start: float) -> float:
    """Where a function that rises comes within CLOSE of 0, near ``start``; at worst REACH away from 0.

    Doubled steps to the other side of 0, then the method of false position in its Illinois form, which needs
    half as many looks as halving. The last look is at what is returned.
    """
    at, value = start, rising(start)
    step = -math.copysign(FIRST, value)
    other, its = at, value
    for _ in range(TRIALS):
        if abs(value) < CLOSE or (its * value > 0 and abs(at) >= REACH):
            break
        if its * value > 0:  # not yet beyond 0
            other, its = at, value
            at, step = min(max(at + step, -REACH), REACH), 2 * step
            value = rising(at)
            continue
        point = at - value * (at - other) / (value - its)
        found = rising(point)
        if found * value < 0:
            other, its = at, value
        else:
            its /= 2
        at, value = point, found
    return at


def _named(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}
