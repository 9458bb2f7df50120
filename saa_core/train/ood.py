"""Fits an OodDetector (gates/ood.py): the features of known texts, and the distance above which one is far.

Fitted to windows of the texts that the gates were trained on; the limit comes from held-out texts, and how
often it is exceeded is told of others again. Only the first layer's queries are looked at, so each window
stops there.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from saa_core.attention import Call
from saa_core.data import fetch
from saa_core.data.corpus import Document, draw_windows, join_documents
from saa_core.errors import PolicyError, TextError
from saa_core.gates.ood import OodDetector, distance, features
from saa_core.model import Model
from saa_core.pairs import Allowed
from saa_core.run.execute import forward
from saa_core.train.config import OOD_FIT_WINDOWS, OOD_LENGTHS, OOD_LIMIT_WINDOWS
from saa_core.types import Progress

FITTED = (64, 256)
"""Lengths of the windows that the mean and the covariance are fitted to, in tokens."""
LIMIT = 600_000
"""Characters of a source that are used at most."""
PIECE = 10_000
"""Characters of a held-out source that set the limit, or are judged, at a stretch;
a shorter source is halved."""
EXCEEDED = 1e-3
"""Share of held-out windows of each length that are over the limit."""
SHRINK = 0.02
"""Share of the diagonal in the covariance, so that it can be inverted."""
BATCH = 16


def parts(documents: Sequence[Document]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """(fitted, limited, judged) texts by source: the training part, and of the held-out part pieces in
    turn, so that the limit has seen the end of a book, too. A source for evaluation only is judged.

    Raises:
        TextError: there is no source that may be fitted to.
    """
    fitted, limited, judged = (
        join_documents(documents, "train", LIMIT),
        dict[str, str](),
        dict[str, str](),
    )
    for source, text in join_documents(documents, "heldout", LIMIT).items():
        size = max(1, min(PIECE, (len(text) + 1) // 2))
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        if source in fetch.datasets() and fetch.datasets()[source].use == "evaluate":
            judged[source] = text
        else:
            limited[source], judged[source] = "".join(pieces[::2]), "".join(pieces[1::2])
    if not fitted:
        raise TextError("data: every source is for evaluation only; name one to fit to as well")
    return fitted, limited, judged


def fit_detector(
    model: Model,
    fitted: Mapping[str, str],
    limited: Mapping[str, str],
    judged: Mapping[str, str],
    *,
    lengths: Sequence[int] = OOD_LENGTHS,
    fit_windows: int = OOD_FIT_WINDOWS,
    limit_windows: int = OOD_LIMIT_WINDOWS,
    command: str = "",
    progress: Progress | None = None,
) -> OodDetector:
    """What the model's first gate is given to tell far inputs by; it is also returned.

    Args:
        fitted, limited, judged: texts by source: those of the training, held-out ones that set the
            limit, and others that tell how often it is exceeded. Sources take turns.
        lengths: windows in tokens, for each of which there is a limit.
        fit_windows: of each length in FITTED that the model takes.
        limit_windows: of each length; half as many are judged.

    Raises:
        PolicyError: a length cannot be used, or there are too few windows.
        TextError: the texts are shorter than a window.
    """
    if not lengths or any(not 4 <= length <= model.max_length for length in lengths):
        raise PolicyError(f"lengths={list(lengths)}: choose from 4 to {model.max_length} tokens")
    if min(fit_windows, limit_windows) < 2:
        raise PolicyError(
            f"fit_windows={fit_windows}, limit_windows={limit_windows}: at least 2 are needed"
        )
    streams = [
        {source: model.tokenize(text) for source, text in texts.items()}
        for texts in (fitted, limited, judged)
    ]
    own = [length for length in FITTED if length <= model.max_length]
    judge_windows = max(2, limit_windows // 2)
    total = len(own) * fit_windows + len(lengths) * (limit_windows + judge_windows)
    done = 0

    def told(windows: int) -> None:
        nonlocal done
        done += windows
        if progress:
            progress(done, total)

    def seen(part: int, length: int, wanted: int) -> tuple[list[str], Tensor]:
        found = draw_windows(streams[part], [length], seed=part)
        drawn = list(itertools.islice(found, wanted))
        names = [name for name, _, _ in drawn]
        return names, describe_inputs(model, [ids for _, _, ids in drawn], told)

    sample = torch.cat([seen(0, length, fit_windows)[1] for length in own])
    mean, whiten = _fit(sample)
    limits, over = [], dict[str, list[bool]]()
    for length in sorted(set(lengths)):
        _, held_out = seen(1, length, limit_windows)
        limit = distance(held_out, mean, whiten).quantile(1 - EXCEEDED)
        limits.append(round(float(limit), 4))
        names, others = seen(2, length, judge_windows)
        far = distance(others, mean, whiten) > limits[-1]
        for name, own_far in zip(names, far.tolist(), strict=True):
            over.setdefault(name, []).append(own_far)
    about = {
        "command": command,
        "fitted": list(fitted),
        "limited": list(limited),
        "windows": [fit_windows, limit_windows, judge_windows],
        "exceeded": EXCEEDED,
        "over": {name: round(sum(far) / len(far), 5) for name, far in sorted(over.items())},
    }
    found = OodDetector(mean, whiten, tuple(sorted(set(lengths))), tuple(limits), about)
    model.gates[0].ood_detector = found
    return found


def describe_inputs(
    model: Model, found: Sequence[Sequence[int]], told: Callable[[int], None] | None = None
) -> Tensor:
    """Features of windows of token ids without their frame, float32 [windows, F]."""
    parts = list[Tensor]()
    for _, group in itertools.groupby(found, len):
        own = list(group)
        for start in range(0, len(own), BATCH):
            batch = [model.frame(ids) for ids in own[start : start + BATCH]]
            parts.append(_first_layer(model, batch))
            if told:
                told(len(batch))
    if not parts:
        raise TextError("texts: there is no window to describe")
    return torch.cat(parts)


class _Enough(Exception):  # noqa: N818, nothing is wrong
    """Stops a forward pass behind the first layer's queries."""


def _first_layer(model: Model, ids: Sequence[Sequence[int]]) -> Tensor:
    kept = list[Tensor]()

    def observe(layer: int, q: Tensor, k: Tensor, allowed: Allowed, scale: float) -> None:
        kept.append(features(q, allowed.real_queries.expand(len(q), -1)).cpu())
        raise _Enough

    try:
        with torch.inference_mode():
            forward(model, torch.tensor(ids, device=model.device), Call(None, observe=observe))
    except _Enough:
        pass
    return kept[0]


def _fit(sample_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and whitening, rounded as they are stored."""
    sample = sample_NF.double()
    covariance = torch.cov(sample.T)
    diagonal = covariance.diag().clamp(min=1e-6)
    shrunk = (1 - SHRINK) * covariance + SHRINK * torch.diag(diagonal)
    inverse = torch.linalg.inv(torch.linalg.cholesky(shrunk)).T
    return sample.mean(0).half().float(), inverse.half().float()
