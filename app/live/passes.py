"""One pass of a model as the page needs it, and what two of them say together."""

import time
from typing import Any

import torch

import saa_core as saa
from app.live.values import Compared, Side
from saa_core.explain.difference import difference
from saa_core.run.execute import execute
from saa_core.run.flops import flops_against_dense
from saa_core.run.generate import write_on
from saa_core.run.text import trace_of
from saa_core.run.timing import TimedRun
from saa_core.trace.align import align
from saa_core.trace.mass import drawn_queries
from saa_core.types import PAIR_LIMIT, Progress

NEW_TOKENS = 6

MASS_ROWS = 128
"""Queries whose true attention is computed of a text with more than EXACT tokens."""
EXACT = PAIR_LIMIT
"""Texts up to this many tokens, which are decided pair by pair: nothing about them is an estimate."""
POSITIONS = 128
"""Positions at which next tokens are compared before the figures of a longer text are shown."""


def read(
    model: saa.Model,
    text: str,
    encoded: dict[str, Any],
    policy: saa.Policy | None,
    layers: Progress,
) -> tuple[saa.Trace, str | None, TimedRun]:
    """One recorded pass on the clock, and what a language model writes behind the text from that pass's cache,
    which is gone when this returns. The trace has no likely next tokens yet: comparing fills them in.

    Args:
        encoded: see :func:`saa_core.run.text.encode`.
        layers: called with (layers that are done, layers); what it raises ends the pass.
    """
    ids = encoded["input_ids"]
    rows = MASS_ROWS if len(ids) > EXACT else None
    started = time.perf_counter()
    found = execute(
        model, [ids], policy, "full", clock=True, keep_cache=True, mass_rows=rows, progress=layers
    )
    run = TimedRun.of(found, time.perf_counter() - started)
    trace = trace_of(model, text, encoded, found, top=False)
    written = "".join(write_on(model, found, NEW_TOKENS)) if model.causal else None
    return trace, written, run


def positions(length: int) -> tuple[int, ...] | None:
    """Where next tokens are compared first; the last is among them. None: everywhere."""
    drawn = None if length <= EXACT else drawn_queries(length - 1, POSITIONS - 1)
    return None if drawn is None else (*drawn.tolist(), length - 1)


class Countdown:
    """How far a number of passes is, from the layers that go by; those to come are taken to be as slow as what
    has run.

    Attributes:
        share: that is done.
    """

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.share = 0.0
        self._done = 0
        self._started = time.monotonic()

    def at(self, layer: int, layers: int) -> None:
        """So many layers of a pass are done."""
        self.share = min((self._done + layer / layers) / self.passes, 1.0)
        self._done += layer == layers

    @property
    def left(self) -> float | None:
        """Seconds that are still to go; None while nothing is known."""
        passed = time.monotonic() - self._started
        return passed / self.share * (1 - self.share) if self.share > 0 else None


def agreement(dense: saa.Trace, trace: saa.Trace) -> float:
    """Share of positions with the same most likely next token; of an encoder the cosine."""
    found = saa.compare(dense, trace)
    same = found.top1_agreement
    return found.embedding_cosine if same is None else float(same.mean())


def flops_share(model: saa.Model, trace: saa.Trace) -> float | None:
    """Operations of all layers, gates included, against dense; None without a task. Over 1 where the
    reference model was asked after all."""
    if model.task is None:
        return None
    asked = next((event for event in trace.events if event["suspected"] == "margin"), None)
    if asked is not None:
        return 1.0 + float(asked["spent"])
    if trace.kept_tokens is None or trace.policy is None or trace.policy.tokens is None:
        return 1.0
    needed = torch.from_numpy(trace.kept_tokens.sum(1))[None]
    done, dense = flops_against_dense(model, needed, gates=trace.policy.tokens < 1)
    return float(done / dense)


def lay_together(
    sides: tuple[Side, Side],
    traces: tuple[saa.Trace, saa.Trace],
    models: tuple[saa.Model, saa.Model],
) -> Compared:
    """What differs between two runs, as far as their models can be laid over each other."""
    first, second = traces
    alignment = output = decisions = names = None
    vocabularies = [model.tokenizer.get_vocab() for model in models]
    if vocabularies[0] == vocabularies[1]:
        alignment = align(first.token_ids.tolist(), second.token_ids.tolist())
    if alignment is not None and first.shape == second.shape:
        output = saa.compare(first, second, alignment)
        decisions = difference(first, second, alignment)
        if first.top_ids is not None and second.top_ids is not None:
            tops = first.top_ids[list(alignment.first)], second.top_ids[list(alignment.second)]
            names = tuple(
                tuple(model.tokenizer.batch_decode(top[:, :1].tolist()))
                for model, top in zip(models, tops, strict=True)
            )
    return Compared(sides, traces, alignment, output, decisions, names)
