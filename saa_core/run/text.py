"""Text -> Trace, and text -> continuation. The only place where a text meets a model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from saa_core.attach import Model
from saa_core.attention import Call
from saa_core.errors import ModelError, PolicyError, TextError
from saa_core.run.flops import flops_against_dense
from saa_core.run.varlen import encode as encode_packed
from saa_core.task import margins
from saa_core.trace.trace import Array, ModelInfo, Trace
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
    _check_layers(model, policy)
    call = Call(policy, record=record)
    head, known = None, dict[str, Any]()
    with torch.inference_mode():
        hidden = _states(model, encoded["input_ids"], call)
        if _over(call):
            events = (*call.events(), {"suspected": "bound", "done": "dense", "added": 1.0})
            call = _densely(record)
            hidden = _states(model, encoded["input_ids"], call)
            known = {"events": events}
        if model.causal:
            head = _Head(model.hf)
            known |= _top(head, hidden)
    if model.task is not None:
        probabilities = model.task.probabilities(hidden.float().mean(0, keepdim=True))
        apart, least = float(margins(probabilities)), model.task.least_margin(policy)
        if apart < least:
            event = {"suspected": "margin", "measured": apart, "limit": least, "done": "dense"}
            event |= {"added": 1.0, "spent": _spent(model, call, len(encoded["input_ids"]))}
            return _sure(run(model.dense_side, text, record=record), event)
        known |= {"labels": model.task.labels, "label_probs": probabilities[0].cpu().numpy()}
    return call.trace(
        text=text,
        tokens=tuple(model.tokenizer.convert_ids_to_tokens(encoded["input_ids"])),
        offsets=tuple((int(a), int(b)) for a, b in encoded["offset_mapping"]),
        token_ids=np.asarray(encoded["input_ids"], np.int64),
        model=ModelInfo(model.spec.title, model.spec.family, model.spec.gate, model.spec.trained),
        dtype=str(model.dtype).removeprefix("torch."),
        hidden=hidden.float().cpu().numpy(),
        head=head,
        **known,
    )


def _sure(dense: Trace, event: dict[str, Any]) -> Trace:
    """The dense side's trace, which says why it was asked."""
    reason = "the two most probable labels were too close together"
    return replace(dense, events=(event,), execution=replace(dense.execution, reason=reason))


def _spent(model: Model, call: Call, length: int) -> float:
    """What one text took before the dense side was asked, as a share of dense's operations."""
    layers = [record for _, record in sorted(call.layers.items())]
    needed = [length if record.alive is None else int(record.alive.sum()) for record in layers]
    dropping = call.policy is not None and (call.policy.tokens or 1.0) < 1
    done, full = flops_against_dense(model, torch.tensor([needed]), gates=dropping)
    return float(done / full)


def _over(call: Call) -> bool:
    """True where a guard could not show that the request is within its limit."""
    checked = call.checked()
    return checked is not None and not checked.met


def _densely(record: Literal["none", "summary", "full"]) -> Call:
    call = Call(None, record)
    call.kernel_reason = "the guard could not show that the limit was met"
    return call


def _states(model: Model, ids: list[int], call: Call) -> Tensor:
    """Final states [N, E] of one text; packed where whole tokens may be dropped."""
    if call.policy is not None and call.policy.tokens is not None:
        return encode_packed(model, [ids], call.policy, call).states
    return forward(model, torch.tensor([ids], device=model.device), call)[0]


def forward(model: Model, ids: Tensor, call: Call) -> Tensor:
    """Final hidden states [B, N, E] of a batch of token ids without padding."""
    extra = {"use_cache": False} if model.causal else {}
    states: Tensor = model.hf.base_model(ids, saa=call, **extra).last_hidden_state
    return states


def _check_layers(model: Model, policy: Policy | None) -> None:
    layers = len(model.gates)
    for entry in () if policy is None else policy.force:
        if entry.layer is not None and entry.layer >= layers:
            raise PolicyError(
                f"force: layer={entry.layer} does not exist; choose 0 to {layers - 1}"
            )


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


class _Head:
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


def _top(head: _Head, hidden: Tensor) -> dict[str, Any]:
    """The most likely next tokens and their probabilities, in slices that fit into memory."""
    ids, probabilities = [], []
    for part in hidden.split(256):
        best = torch.softmax(head.layer(part).float(), -1).topk(min(TOP, head.layer.out_features))
        ids.append(best.indices.cpu())
        probabilities.append(best.values.cpu())
    return {
        "top_ids": torch.cat(ids).int().numpy(),
        "top_probs": torch.cat(probabilities).numpy(),
    }


def generate(
    model: Model, text: str, policy: Policy | None = None, *, max_new_tokens: int = 16
) -> Iterator[str]:
    """Continues a text greedily, piece by piece; the text itself is read under the policy.

    The prompt's attention is sparse, the steps after it read the whole key cache.

    Raises:
        TextError, ModelError: see :func:`run`.
    """
    if not model.causal:
        raise ModelError(f"model={model.spec.name!r} is an encoder; it does not write text")
    ids = encode(model, text)["input_ids"]
    stop = model.hf.generation_config.eos_token_id
    stops = set(stop) if isinstance(stop, list) else {stop}
    step = torch.tensor([ids], device=model.device)
    cache, written, shown = None, list[int](), ""
    call: Call | None = Call(policy)
    settings = {"use_cache": True, "logits_to_keep": 1}
    room = min(max_new_tokens, model.max_length - len(ids))
    for _ in range(room):
        with torch.inference_mode():
            extra = {} if call is None else {"saa": call}
            out = model.hf(step, past_key_values=cache, **extra, **settings)
            if call is not None and _over(call):
                out = model.hf(step, saa=_densely("none"), **settings)
        cache, call = out.past_key_values, None
        token = int(out.logits[0, -1].argmax())
        if token in stops:
            return
        written.append(token)
        whole = model.tokenizer.decode(written)
        if not whole.endswith("�"):  # the rest of a character may still be to come
            yield whole[len(shown) :]
            shown = whole
        step = torch.tensor([[token]], device=model.device)
