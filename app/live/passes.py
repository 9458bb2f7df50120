"""One pass of a model as the page needs it, and what two of them say together."""

from collections.abc import Callable
from typing import Any

import torch

import saa_core as saa
from app.live.values import Compared, Side
from saa_core.explain.difference import difference
from saa_core.run.execute import execute
from saa_core.run.flops import flops_against_dense
from saa_core.run.generate import write_on
from saa_core.run.text import trace_of
from saa_core.trace.align import align

NEW_TOKENS = 6

StepReport = Callable[[str, float], None]
"""Called with the step's name (a key of the text files) and the share that is done."""


def read(
    model: saa.Model,
    text: str,
    encoded: dict[str, Any],
    policy: saa.Policy | None,
    report: StepReport,
    done: float,
) -> tuple[saa.Trace, str | None]:
    """One recorded pass, and what a language model writes behind the text from that pass's cache, which
    is gone when this returns. The trace has no likely next tokens yet: comparing fills them in.

    Args:
        encoded: see :func:`saa_core.run.text.encode`.
        done: share that is reported while it writes.
    """
    found = execute(model, [encoded["input_ids"]], policy, "full", keep_cache=True)
    trace = trace_of(model, text, encoded, found, top=False)
    if not model.causal:
        return trace, None
    written = ""
    report("write", done)
    for piece in write_on(model, found, NEW_TOKENS):
        written += piece
        report("write", done)
    return trace, written


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
