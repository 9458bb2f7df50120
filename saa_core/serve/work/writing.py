"""Continuations: a prompt is read under the policy, then one token a step, with the whole cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core.run.execute import Executed
from saa_core.run.generate import likeliest, tokens_on
from saa_core.serve.jobs import Piece
from saa_core.serve.work.parts import Cancelling, NotFiniteError, Work
from saa_core.serve.work.pytorch import PytorchModel, why_dense
from saa_core.types import Policy

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and where writing ends.

    Args:
        most: tokens.
        temperature: 0 takes the most likely token.
        top_p: share of the probability that is drawn from.
        seed: of the draw; None is another one each time.
        stop: texts before which writing ends.
    """

    most: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """A piece of a continuation; ``ended`` is "stop" or "length" in the last one.

    Args:
        tokens: that were written since the piece before.
    """

    text: str
    tokens: int
    ended: str | None = None


def writing(
    runs: PytorchModel,
    policy: Policy | None,
    sampling: Sampling,
    note: Callable[[Work, Executed, str | None], None],
    before: Callable[[], None] = lambda: None,
) -> Callable[[Sequence[Work], Cancelling], Iterator[list[tuple[Work, Piece]]]]:
    """Steps of one request.

    Args:
        note: is told of the prompt's pass, and why it was dense although a policy was given.
        before: raises where the policy must not be followed.
    """

    def steps(works: Sequence[Work], stop: Cancelling) -> Iterator[list[tuple[Work, Piece]]]:
        (work,) = works
        before()
        prompt = runs.read(work.ids[0], policy, stop)
        note(work, prompt, None if policy is None else why_dense(prompt))
        yield []
        yield from _pieces(work, runs, prompt, sampling)

    return steps


def _pieces(
    work: Work, runs: PytorchModel, prompt: Executed, sampling: Sampling
) -> Iterator[list[tuple[Work, Piece]]]:
    written, shown, told, whole = list[int](), 0, 0, ""
    held = max(map(len, sampling.stop), default=1) - 1
    for token in tokens_on(runs.model, prompt, sampling.most, _pick(sampling)):
        written.append(token)
        whole = runs.model.tokenizer.decode(written, skip_special_tokens=True)
        cut = _cut(whole, sampling.stop)
        if cut is not None:
            last = Written(whole[shown:cut], len(written) - told, "stop")
            yield [(work, Piece(last))]
            return
        # The end may be the beginning of a stop text, or of a character that is not whole yet.
        safe = len(whole) - held
        if whole.endswith(UNFINISHED) or safe <= shown:
            yield []
            continue
        piece = Written(whole[shown:safe], len(written) - told)
        shown, told = safe, len(written)
        yield [(work, Piece(piece, last=False))]
    room = min(sampling.most, runs.model.max_length - prompt.lengths[0])
    ended = "length" if len(written) >= room else "stop"
    yield [(work, Piece(Written(whole[shown:], len(written) - told, ended)))]


def _cut(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop text begins."""
    found = [at for at in map(text.find, stops) if at >= 0]
    return min(found) if found else None


def _pick(sampling: Sampling) -> Callable[[Tensor], int]:
    """Chooses a token; raises NotFiniteError where the model gave no numbers."""
    draw = torch.Generator()
    draw.seed() if sampling.seed is None else draw.manual_seed(sampling.seed)

    def pick(logits_V: Tensor) -> int:
        if not bool(logits_V.isfinite().all()):
            raise NotFiniteError("a logit is no number")
        if sampling.temperature == 0:
            return likeliest(logits_V)
        # The largest is 0 before the division, which then overflows to -inf at most.
        scaled = logits_V.double().cpu()
        scaled = (scaled - scaled.max()) / sampling.temperature
        chances, order = scaled.softmax(-1).sort(descending=True)
        if sampling.top_p < 1:
            chances = torch.where(chances.cumsum(-1) - chances < sampling.top_p, chances, 0.0)
        return int(order[torch.multinomial(chances, 1, generator=draw)])

    return pick
