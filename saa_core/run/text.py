"""Text -> Trace: encodes a text, executes it and keeps the record; two traces and what differs.

Shapes: N tokens, E hidden size, V vocabulary, T of `TOP`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from saa_core.errors import ModelError, TextError
from saa_core.model import Model
from saa_core.run.execute import Executed, execute
from saa_core.run.flops import flops_against_dense
from saa_core.run.spans import last_whole, spans
from saa_core.task import margins
from saa_core.trace.compare import Comparison, compare
from saa_core.trace.maps import Array
from saa_core.trace.recorded import ModelInfo
from saa_core.trace.trace import Trace
from saa_core.types import Policy, Progress

TOP = 5
"""Most likely next tokens that a trace holds at each position."""
SLICE = 256
"""Positions whose logits are held at once."""


def run(
    model: Model,
    text: str,
    policy: Policy | None = None,
    *,
    record: Literal["summary", "full"] = "full",
    mass_rows: int | None = None,
) -> Trace:
    """Runs a text through the model and records what was decided and what came out.

    Args:
        policy: what to keep; None is plain dense attention, recorded the same way.
        record: "full" keeps every decision; "summary" only figures per layer and head.
        mass_rows: see :class:`saa_core.Call`: the true attention mass of so many drawn queries of a longer
            text; by default of every query.

    Raises:
        TextError: the text is empty, not valid Unicode, or longer than the model's limit.
        ModelError: the model has no tokenizer.
    """
    encoded = encode(model, text)
    found = execute(model, [encoded["input_ids"]], policy, record, mass_rows=mass_rows)
    return trace_of(model, text, encoded, found)


def trace_of(
    model: Model, text: str, encoded: dict[str, Any], found: Executed, *, top: bool = True
) -> Trace:
    """The trace of one text that was executed with a record.

    Args:
        encoded: what :func:`encode` gave for the text.
        top: with the most likely next tokens of a language model; False leaves them to
            :func:`compare_and_fill`.
    """
    if found.reference is not None and found.probabilities is not None and model.task is not None:
        own = model.task.probabilities(found.means)
        event = {"suspected": "margin", "measured": float(margins(own)), "done": "dense"}
        event["limit"] = model.task.least_margin((found.rejected or found.call).policy)
        event |= {"added": 1.0, "spent": _spent(model, found)}
        dense = trace_of(model.reference_model, text, encoded, found.reference)
        reason = "the two most probable labels were too close together"
        execution = replace(dense.execution, reason=reason)
        return replace(dense, events=(event,), execution=execution)
    head, known = None, dict[str, Any]()
    if model.causal:
        head = LmHead(model.hf)
        if top:
            known |= _top(head, found.states)
    if model.task is not None and found.probabilities is not None:
        known |= {"labels": model.task.labels, "label_probs": found.probabilities[0].numpy()}
    return found.call.trace(
        text=text,
        tokens=tuple(model.tokenizer.convert_ids_to_tokens(encoded["input_ids"])),
        offsets=tuple((int(a), int(b)) for a, b in encoded["offset_mapping"]),
        token_ids=np.asarray(encoded["input_ids"], np.int64),
        model=ModelInfo(model.spec.title, model.spec.family, model.spec.gate, model.spec.trained),
        dtype=str(model.dtype).removeprefix("torch."),
        hidden=found.states.float().cpu().numpy(),
        lm_head=head,
        events=found.events,
        **known,
    )


def _spent(model: Model, found: Executed) -> float:
    """What one text took before the reference model was asked, as a share of dense's operations."""
    layers = len(found.call.layers)
    needed = found.needed
    if needed is None:
        needed = torch.tensor([[found.lengths[0]] * layers])
    policy = found.call.policy
    dropping = policy is not None and (policy.tokens or 1.0) < 1
    done, full = flops_against_dense(model, needed, gates=dropping)
    return float(done / full)


def encode(model: Model, text: str) -> dict[str, Any]:
    """Token ids of a text that the model can take, and where they stand in it (:mod:`saa_core.run.spans`).

    Raises:
        TextError, ModelError: see :func:`run`.
    """
    if model.tokenizer is None:
        raise ModelError("model has no tokenizer; attach it with saa_core.attach(hf, tokenizer)")
    given: Any = text  # which may be anything
    if isinstance(given, tuple | list):
        raise TextError(
            f"text is a {type(given).__name__}; give one text as a string (a pair of texts goes through "
            "hf(**tokenizer(first, second, return_tensors='pt'), saa=call))"
        )
    if not isinstance(text, str) or not text.strip():
        raise TextError("text is empty; type at least one word")
    if not getattr(model.tokenizer, "is_fast", True):
        raise ModelError(
            f"tokenizer={type(model.tokenizer).__name__} does not say where its tokens stand in the "
            "text; load the fast one of the model with AutoTokenizer"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"text has an invalid character (a lone surrogate) at position {error.start}"
        ) from error
    encoded: dict[str, Any] = dict(
        model.tokenizer(
            text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
    )
    tokens = model.tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    special = encoded["special_tokens_mask"]
    places = spans(text, tokens, encoded["offset_mapping"], special)
    encoded["offset_mapping"] = places
    length, known = len(encoded["input_ids"]), model.hf.get_input_embeddings().weight.shape[0]
    highest = max(encoded["input_ids"], default=0)
    if highest >= known:
        raise ModelError(
            f"tokenizer: token {model.tokenizer.convert_ids_to_tokens(highest)!r} has id {highest}, and hf "
            f"has embeddings for {known}; call hf.resize_token_embeddings(len(tokenizer))"
        )
    if length > model.max_length:
        own = [place for place, extra in zip(places, special, strict=True) if not extra]
        cut = last_whole(own, model.max_length - sum(special))
        raise TextError(
            f"text has {length} tokens, and {model.spec.name} takes at most {model.max_length}; "
            f"cut it after character {cut}",
            limit=model.max_length,
            length=length,
            cut_at=cut,
        )
    return encoded


class LmHead:
    """Hidden states to logits, for as long as the model lives."""

    def __init__(self, hf: Any) -> None:
        self.layer = hf.get_output_embeddings()
        if self.layer is None:
            raise ModelError("hf has no language-model head; load it as a causal language model")

    def __call__(self, hidden: Array) -> Array:
        """Logits, [N, V]."""
        with torch.inference_mode():
            logits: Array = self.layer(self._ready(torch.from_numpy(hidden))).float().cpu().numpy()
        return logits

    def logs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities of the next token, [N, V], on the model's device."""
        logs: Tensor = self.layer(self._ready(hidden)).float().log_softmax(-1)
        return logs

    def _ready(self, hidden: Tensor) -> Tensor:
        weight: Tensor = self.layer.weight
        return hidden.to(weight.device, weight.dtype)


class _Top:
    """Collects the most likely next tokens and their probabilities, slice by slice."""

    def __init__(self) -> None:
        self.ids, self.probabilities = list[Tensor](), list[Tensor]()

    def add(self, logs: Tensor) -> None:
        """Takes log-probabilities [slice, V]."""
        best = logs.topk(min(TOP, logs.shape[-1]))
        self.ids.append(best.indices.cpu())
        self.probabilities.append(best.values.exp().cpu())

    def known(self) -> dict[str, Any]:
        """As fields of a trace, [N, T] each."""
        return {
            "top_ids": torch.cat(self.ids).int().numpy(),
            "top_probs": torch.cat(self.probabilities).numpy(),
        }


def _top(head: LmHead, hidden: Tensor) -> dict[str, Any]:
    """The most likely next tokens and their probabilities."""
    top = _Top()
    with torch.inference_mode():
        for part in hidden.split(SLICE):
            top.add(head.logs(part))
    return top.known()


def compare_at(first: Trace, second: Trace, positions: Sequence[int]) -> Comparison:
    """Compares two traces of one text that were made in this process; the next tokens at some positions
    only, which are most of the work of a long text.

    Raises:
        TraceError: see :func:`saa_core.compare`.
    """
    heads = first.lm_head, second.lm_head
    if not (isinstance(heads[0], LmHead) and isinstance(heads[1], LmHead)):
        return compare(first, second)
    kl, same, places = list[Tensor](), list[Tensor](), torch.tensor(positions)
    states = [torch.from_numpy(trace.hidden)[places] for trace in (first, second)]
    with torch.inference_mode():
        for part, other in zip(*(side.split(SLICE) for side in states), strict=True):
            a, b = heads[0].logs(part), heads[1].logs(other)
            kl.append(_divergence(a, b))
            same.append((a.argmax(-1) == b.argmax(-1)).cpu())
    return compare(first, second, next_tokens=(torch.cat(kl).numpy(), torch.cat(same).numpy()))


def _divergence(a: Tensor, b: Tensor) -> Tensor:
    """Of the second log-probabilities from the first, nats, row by row."""
    return (a.exp() * (a - b)).sum(-1).clamp(min=0).cpu()


def compare_and_fill(
    first: Trace, second: Trace, progress: Progress | None = None
) -> tuple[Trace, Trace, Comparison]:
    """Compares two traces of one text that were made in this process, and fills in the most likely next
    tokens of both where they were left out. Each head runs once over each of the two.

    Args:
        progress: called with (positions that are done, positions); what it raises ends the comparison.

    Raises:
        TraceError: see :func:`saa_core.compare`.
    """
    heads, states = (first.lm_head, second.lm_head), (first.hidden, second.hidden)
    if (
        not (isinstance(heads[0], LmHead) and isinstance(heads[1], LmHead))
        or (states[0] is None or states[1] is None)
        or not np.array_equal(first.token_ids, second.token_ids)
    ):
        return first, second, compare(first, second)
    tops, kl, same = (_Top(), _Top()), list[Tensor](), list[Tensor]()
    slices = (torch.from_numpy(side).split(SLICE) for side in states if side is not None)
    with torch.inference_mode():
        for part, other in zip(*slices, strict=True):
            a, b = heads[0].logs(part), heads[1].logs(other)
            kl.append(_divergence(a, b))
            same.append((a.argmax(-1) == b.argmax(-1)).cpu())
            tops[0].add(a)
            tops[1].add(b)
            if progress is not None:
                progress(sum(map(len, same)), first.keys)
    found = compare(first, second, next_tokens=(torch.cat(kl).numpy(), torch.cat(same).numpy()))
    return _filled(first, tops[0]), _filled(second, tops[1]), found


def _filled(trace: Trace, top: _Top) -> Trace:
    return trace if trace.top_ids is not None else replace(trace, **top.known())
