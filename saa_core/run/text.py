"""Text -> Trace: encodes a text, executes it and keeps the record."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from saa_core.errors import ModelError, TextError
from saa_core.model import Model
from saa_core.run.execute import Executed, execute
from saa_core.run.flops import flops_against_dense
from saa_core.task import margins
from saa_core.trace.maps import Array
from saa_core.trace.recorded import ModelInfo
from saa_core.trace.trace import Trace
from saa_core.types import Policy

TOP = 5


def run(
    model: Model,
    text: str,
    policy: Policy | None = None,
    *,
    record: Literal["summary", "full"] = "full",
) -> Trace:
    """Runs a text through the model and records what was decided and what came out.

    Args:
        policy: what to keep; None is plain dense attention, recorded the same way.
        record: "full" keeps every decision; "summary" only figures per layer and head.

    Raises:
        TextError: the text is empty, not valid Unicode, or longer than the model's limit.
        ModelError: the model has no tokenizer.
    """
    encoded = encode(model, text)
    found = execute(model, [encoded["input_ids"]], policy, record)
    return trace_of(model, text, encoded, found)


def trace_of(model: Model, text: str, encoded: dict[str, Any], found: Executed) -> Trace:
    """The trace of one text that was executed with a record.

    Args:
        encoded: what :func:`encode` gave for the text.
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
    """Token ids and offsets of a text that the model can take.

    Raises:
        TextError, ModelError: see :func:`run`.
    """
    if model.tokenizer is None:
        raise ModelError("model has no tokenizer; attach it with saa_core.attach(hf, tokenizer)")
    if not isinstance(text, str) or not text.strip():
        raise TextError("text is empty; type at least one word")
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
    length = len(encoded["input_ids"])
    if length > model.max_length:
        special = encoded["special_tokens_mask"]
        ends = [
            end for (_, end), s in zip(encoded["offset_mapping"], special, strict=True) if not s
        ]
        cut = ends[model.max_length - sum(special) - 1]
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
        weight = self.layer.weight
        with torch.inference_mode():
            states = torch.from_numpy(hidden).to(weight.device, weight.dtype)
            logits: Array = self.layer(states).float().cpu().numpy()
        return logits


def _top(head: LmHead, hidden: Tensor) -> dict[str, Any]:
    """The most likely next tokens and their probabilities, in slices that fit into memory."""
    ids, probabilities = [], []
    with torch.inference_mode():
        logits = (head.layer(part).float() for part in hidden.split(256))
        bests = [part.softmax(-1).topk(min(TOP, head.layer.out_features)) for part in logits]
    for best in bests:
        ids.append(best.indices.cpu())
        probabilities.append(best.values.cpu())
    return {
        "top_ids": torch.cat(ids).int().numpy(),
        "top_probs": torch.cat(probabilities).numpy(),
    }
