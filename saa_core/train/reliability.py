"""Measures the calibration of predicted mass, and fits the map that corrects it, head by head.

Texts are run under policies from sparse to nearly dense, and for random query rows what the gate predicted
about the mass of its choice is set beside the dense softmax. The map is a straight line between log-odds
(Platt scaling with fractional targets), which makes the mean right and has two numbers per head.
Texts that the map is fitted to and texts that it is judged on are never the same.

Shapes: L layers, H query heads, N rows (query blocks, or single queries pair by pair).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from saa_core.attention import Call
from saa_core.data import fetch
from saa_core.data.corpus import Document, join_documents
from saa_core.errors import PolicyError, TextError
from saa_core.gates.reliability import SURE, Bin, Diagram, MassCalibrator, Reliability
from saa_core.model import Model
from saa_core.run.execute import forward
from saa_core.trace.record import LayerRecord
from saa_core.train.config import RELIABILITY_LENGTHS, RELIABILITY_MASSES
from saa_core.train.evaluate import spread_windows
from saa_core.types import Policy, Progress

BINS = 10
ROWS = 128
"""Rows at most that are drawn from one run."""
PULL = 1e-3
"""Weight of the regularisation towards no correction, against a mean loss in nats."""
LEAST_SLOPE = 0.05
STEPS = 40
LIMIT = 400_000


@dataclass(frozen=True)
class Rows:
    """What was predicted and what was observed, [L, H, N] each; ``open`` where anything was left out at all."""

    predicted: Tensor
    observed: Tensor
    open: Tensor


def measure_reliability(
    model: Model,
    fitted: Mapping[str, str],
    judged: Mapping[str, str],
    *,
    lengths: Sequence[int] = RELIABILITY_LENGTHS,
    masses: Sequence[float] = RELIABILITY_MASSES,
    windows: int = 2,
    command: str = "",
    progress: Progress | None = None,
) -> Model:
    """The model with maps on its gates, and what they are worth in ``spec.reliability``.

    Args:
        fitted, judged: texts by source that the maps are fitted to, and others that they are judged on.
        lengths: windows in tokens; short ones are decided pair by pair and long ones in blocks, as
            the model's policy says, and each kind gets maps of its own.
        masses: shares of predicted mass to keep.
        windows: per text and length.

    Raises:
        PolicyError: a length or mass cannot be used.
        TextError: a text is shorter than one window.
    """
    if any(not 2 <= length <= model.max_length for length in lengths):
        raise PolicyError(f"lengths={list(lengths)}: choose from 2 to {model.max_length} tokens")
    plain = replace(model.spec.policy, tokens=None, guard=None, fallback="never", budget=None)
    plain = replace(plain, tail=0)  # rows that see all say nothing of the gate
    policies = [replace(plain, mass=mass) for mass in masses]
    kinds: dict[bool, list[int]] = {}
    for length in sorted(set(lengths)):
        kinds.setdefault(plain.block_for(length) == (1, 1), []).append(length)
    count = _Count(len(policies) * windows * len(lengths) * (len(fitted) + len(judged)), progress)
    found = []
    for pairwise, own in kinds.items():
        maps = fit(collect(model, fitted, policies, own, windows, count))
        held_out = collect(model, judged, policies, own, windows, count)
        about = {
            "command": command,
            "fitted": list(fitted),
            "judged": list(judged),
            "lengths": own,
            "masses": list(masses),
            "windows": windows,
        }
        found.append(Reliability(pairwise, maps, judge(held_out), judge(held_out, maps), about))
        for gate, own_map in zip(model.gates, maps, strict=True):
            gate.mass_calibrators = {**gate.mass_calibrators, pairwise: own_map}
    kept = [other for other in model.spec.reliability if other.pairwise not in kinds]
    return replace(model, spec=replace(model.spec, reliability=(*kept, *found)))


def halves(
    documents: Sequence[Document], limit: int = LIMIT
) -> tuple[dict[str, str], dict[str, str]]:
    """(fitted, judged) of documents that no gate was trained on: the first and second half of each
    source; one that is for evaluation only is judged alone.

    Args:
        limit: characters of a source that are used at most.

    Raises:
        TextError: there is no source that a map may be fitted to.
    """
    fitted, judged = dict[str, str](), dict[str, str]()
    for source, text in join_documents(documents, "heldout", limit).items():
        if source in fetch.datasets() and fetch.datasets()[source].use == "evaluate":
            judged[source] = text
        else:
            fitted[source], judged[source] = text[: len(text) // 2], text[len(text) // 2 :]
    if not fitted:
        raise TextError("data: every source is for evaluation only; name one to fit to as well")
    return fitted, judged


def collect(
    model: Model,
    texts: Mapping[str, str],
    policies: Sequence[Policy],
    lengths: Sequence[int],
    windows: int,
    count: "_Count | None" = None,
) -> Rows:
    """Random rows of every text, length and policy; all lengths are decided in the same way."""
    found = list[Rows]()
    for source, text in texts.items():
        for length in lengths:
            for place, tokens in enumerate(spread_windows(model, text, length, windows)):
                for policy in policies:
                    call = Call(policy, record="full")
                    with torch.inference_mode():
                        forward(model, tokens, call)
                    found.append(_rows(call, f"{source}/{length}/{place}"))
                    if count:
                        count.one_more()
    parts = [(rows.predicted, rows.observed, rows.open) for rows in found]
    return Rows(*(torch.cat(part, -1) for part in zip(*parts, strict=True)))


def _rows(call: Call, seed: str) -> Rows:
    """Rows drawn at random from one recorded run, the same ones in every layer."""
    parts = [_layer(call.layers[layer]) for layer in sorted(call.layers)]
    every = parts[0][0].shape[-1]
    drawn = torch.tensor(random.Random(seed).sample(range(every), min(every, ROWS)))
    return Rows(*(torch.stack(part)[..., drawn] for part in zip(*parts, strict=True)))


def _layer(record: LayerRecord) -> tuple[Tensor, Tensor, Tensor]:
    """(predicted, observed, open) of one layer of one text, [H, M] each."""
    decision, true_BHQ = record.decision, record.retained_rows
    assert decision is not None
    assert true_BHQ is not None
    size, Q = decision.block[0], true_BHQ.shape[-1]
    blocks = pad(true_BHQ, (0, -Q % size)).unflatten(-1, (-1, size)).sum(-1)
    queries = pad(torch.ones(Q), (0, -Q % size)).unflatten(-1, (-1, size)).sum(-1)
    left_out = (~decision.keep & (decision.count > 0)).any(-1)
    return decision.predicted_rows[0].cpu(), (blocks / queries)[0], left_out[0].cpu()


def fit(rows: Rows) -> tuple[MassCalibrator, ...]:
    """The map of each layer: fractional logistic regression on the log-odds of what was predicted, per
    head, by Newton's method. Rows in which nothing was left out say nothing."""
    predicted, observed = rows.predicted.double().logit(SURE), rows.observed.double().clamp(0, 1)
    weight = rows.open / rows.open.sum(-1, keepdim=True).clamp(min=1)
    offset = torch.zeros(predicted.shape[:2], dtype=torch.float64)
    slope = torch.ones_like(offset)
    for step in range(STEPS):
        guess = torch.sigmoid(offset[..., None] + slope[..., None] * predicted)
        off, bend = weight * (guess - observed), weight * guess * (1 - guess)
        by_offset = off.sum(-1) + PULL * offset
        by_slope = (off * predicted).sum(-1) + PULL * (slope - 1)
        oo, ss = bend.sum(-1) + PULL, (bend * predicted * predicted).sum(-1) + PULL
        os = (bend * predicted).sum(-1)
        if step == STEPS // 2:  # a slope at its bound stays; the offset goes on alone
            slope = slope.clamp(min=LEAST_SLOPE)
        if step < STEPS // 2:
            size = oo * ss - os * os
            slope = slope - ((oo * by_slope - os * by_offset) / size).clamp(-1, 1)
            offset = offset - ((ss * by_offset - os * by_slope) / size).clamp(-1, 1)
        else:
            offset = offset - (by_offset / oo).clamp(-1, 1)
    return tuple(
        MassCalibrator(
            tuple(round(x, 4) for x in a.tolist()), tuple(round(x, 4) for x in b.tolist())
        )
        for a, b in zip(offset, slope, strict=True)
    )


def judge(rows: Rows, maps: Sequence[MassCalibrator] | None = None) -> Diagram:
    """What was predicted, or what maps make of it, against what was observed; rows in which nothing was left
    out are not counted, since they are right by themselves."""
    predicted = rows.predicted
    if maps is not None:
        predicted = torch.stack(
            [own(layer[None])[0] for own, layer in zip(maps, predicted, strict=True)]
        )
    bins = tuple(_bins(predicted[rows.open], rows.observed[rows.open]))
    return Diagram(
        bins=bins,
        error=_error(bins),
        heads=tuple(
            tuple(
                round(
                    _error(_bins(predicted[layer, head][own], rows.observed[layer, head][own])), 5
                )
                for head, own in enumerate(rows.open[layer])
            )
            for layer in range(len(predicted))
        ),
    )


def _bins(predicted: Tensor, observed: Tensor) -> list[Bin]:
    """BINS bins of as many rows each, in the order of what was predicted."""
    order = predicted.argsort()
    parts = zip(
        predicted[order].tensor_split(BINS), observed[order].tensor_split(BINS), strict=True
    )
    return [
        Bin(round(float(s.double().mean()), 5), round(float(t.double().mean()), 5), len(s))
        for s, t in parts
        if len(s)
    ]


def _error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of what was predicted and what was observed."""
    rows = sum(each.rows for each in bins)
    return sum(each.rows * abs(each.predicted - each.observed) for each in bins) / max(rows, 1)


class _Count:
    """Counts runs and reports progress."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def one_more(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)
