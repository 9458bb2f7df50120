"""Quality against cost on held-out texts: perplexity increase and density, window by window.

Dense and every policy
see the same windows in the same process.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from saa_core.attention import Call
from saa_core.errors import ModelError, TextError
from saa_core.model import Model
from saa_core.run.execute import forward
from saa_core.types import Policy, Progress


@dataclass(frozen=True)
class _OnWindows:
    """What was evaluated: the first columns of both tables."""

    length: int
    text: str
    mass: float
    block: tuple[int, int]
    windows: int


@dataclass(frozen=True)
class Quality(_OnWindows):
    """One policy on all windows of one length.

    Args:
        ppl_increase_pct: perplexity against dense, percent; 0 is equal.
        lo, hi: 95 % interval of it over windows (bootstrap).
        density: kept / allowed pairs, mean over windows, layers and heads.
    """

    ppl_dense: float
    ppl_increase_pct: float
    lo: float
    hi: float
    density: float


def evaluate(
    model: Model,
    text: str,
    name: str,
    length: int,
    policies: Sequence[Policy],
    *,
    windows: int = 8,
    baseline: Model | None = None,
    progress: Progress | None = None,
) -> list[Quality]:
    """Perplexity increase and density of each policy on windows spread evenly over a text.

    Args:
        baseline: the model whose dense run the increase is counted from: the original one where
            ``model`` has an adapter. The model itself by default.

    Raises:
        TextError: the text is shorter than one window.
        ModelError: the model is an encoder.
    """
    dense, increases, densities = on_windows(
        model, text, length, policies, windows=windows, baseline=baseline, progress=progress
    )
    found = []
    for policy, added, density in zip(policies, increases, densities, strict=True):
        lo, hi = interval(added)
        found.append(
            Quality(
                length=length,
                text=name,
                mass=model.resolve(policy, length).aim,
                block=policy.block_for(length),
                windows=len(dense),
                ppl_dense=math.exp(sum(dense) / len(dense)),
                ppl_increase_pct=percent(sum(added) / len(added)),
                lo=percent(lo),
                hi=percent(hi),
                density=sum(density) / len(density),
            )
        )
    return found


def on_windows(
    model: Model,
    text: str,
    length: int,
    policies: Sequence[Policy],
    *,
    windows: int = 8,
    baseline: Model | None = None,
    progress: Progress | None = None,
) -> tuple[list[float], list[list[float]], list[list[float]]]:
    """The same window by window: (dense loss, by policy what it adds, by policy its density); nats per
    token, kept / allowed pairs. Arguments and errors are those of :func:`evaluate`.
    """
    if not model.causal:
        raise ModelError(f"model={model.spec.name!r} is an encoder and has no perplexity")
    batches = spread_windows(model, text, length, windows)
    dense = list[float]()
    added: list[list[float]] = [[] for _ in policies]
    densities: list[list[float]] = [[] for _ in policies]
    for done, tokens in enumerate(batches):
        dense.append(loss(baseline or model, tokens, Call()))
        for index, policy in enumerate(policies):
            call = Call(policy, record="summary")
            added[index].append(loss(model, tokens, call) - dense[-1])
            layers = torch.stack([record.density for record in call.layers.values()])
            densities[index].append(float(layers.mean()))
        if progress:
            progress(done + 1, len(batches))
    return dense, added, densities


@dataclass(frozen=True)
class EncoderQuality(_OnWindows):
    """One policy on all windows of one length, for a model that makes embeddings.

    Args:
        cosine: of the sparse and the dense embedding (mean of the final states), mean over windows.
        lo, hi: 95 % interval of it over windows (bootstrap).
        retained_mass, predicted_mass: true and predicted share of attention on the kept pairs, mean.
        density: kept / allowed pairs, mean over windows, layers and heads.
    """

    cosine: float
    lo: float
    hi: float
    retained_mass: float
    predicted_mass: float
    density: float


def evaluate_encoder(
    model: Model,
    text: str,
    name: str,
    length: int,
    policies: Sequence[Policy],
    *,
    windows: int = 16,
) -> list[EncoderQuality]:
    """How far each policy moves an encoder's embeddings, on windows spread evenly over a text.

    Raises:
        TextError: the text is shorter than one window.
    """
    found = []
    batches = spread_windows(model, text, length, windows)
    with torch.inference_mode():
        dense = [forward(model, tokens, Call())[0].mean(0) for tokens in batches]
        for policy in policies:
            cosines, figures = [], []
            for tokens, before in zip(batches, dense, strict=True):
                call = Call(policy, record="full")
                after = forward(model, tokens, call)[0].mean(0)
                cosines.append(float(torch.cosine_similarity(before, after, dim=0)))
                layers = [
                    (record.retained_mass, record.predicted_mass, record.density)
                    for record in call.layers.values()
                ]
                figures.append(
                    [float(torch.stack(list(x)).mean()) for x in zip(*layers, strict=True)]
                )
            lo, hi = interval(cosines)
            aim = model.resolve(policy, length).aim
            retained, predicted, density = (sum(x) / len(x) for x in zip(*figures, strict=True))
            found.append(
                EncoderQuality(
                    *(length, name, aim, policy.block_for(length), len(batches)),
                    *(sum(cosines) / len(cosines), lo, hi, retained, predicted, density),
                )
            )
    return found


def spread_windows(model: Model, text: str, length: int, windows: int) -> list[Tensor]:
    """Windows of token ids [1, length], as the model wants them, spread evenly over a text.

    Raises:
        TextError: the text is shorter than one window.
    """
    ids = model.tokenize(text)
    return [
        torch.tensor([model.frame(ids[start : start + length])], device=model.device)
        for start in window_starts(len(ids), length, windows)
    ]


def window_starts(total: int, length: int, windows: int) -> list[int]:
    """Starts of windows, evenly over the text, as many as fit without overlap at most."""
    fitting = total // length
    if fitting < 1:
        raise TextError(f"text has {total} tokens, fewer than one window of length={length}")
    count = min(windows, fitting)
    return [index * (total - length) // max(count - 1, 1) for index in range(count)]


def loss(model: Model, tokens: Tensor, call: Call) -> float:
    """Mean negative log-likelihood per token of one plain pass over [1, N] ids, nats."""
    with torch.inference_mode():
        hidden = forward(model, tokens, call)[0]
    return next_token_loss(model, hidden, tokens[0].tolist())


def next_token_loss(model: Model, states_NE: Tensor, ids: Sequence[int]) -> float:
    """Mean negative log-likelihood per token from a text's final states, nats."""
    head, targets = model.hf.get_output_embeddings(), torch.tensor(ids[1:], device=model.device)
    total = 0.0
    with torch.inference_mode():
        for part in slices(len(targets), 256):
            logits = head(states_NE[:-1][part]).float()
            total += float(cross_entropy(logits, targets[part], reduction="sum"))
    return total / len(targets)


def slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def percent(nats: float) -> float:
    """Increase of perplexity in percent for an increase of the mean loss in nats."""
    return 100 * (math.exp(nats) - 1)


def interval(samples: Sequence[float], rounds: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(samples, k=len(samples))) / len(samples) for _ in range(rounds))
    return means[int(0.025 * rounds)], means[int(0.975 * rounds) - 1]
