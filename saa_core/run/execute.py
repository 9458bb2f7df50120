"""Runs token ids under a policy: the one way, whether it is then recorded, timed, labelled or written on.

What every user of a policy must get happens here and nowhere else: overrides are checked against the
model, a pass whose guard could not show its limit is done again densely, and a label that is not clear
is asked of the task's reference model.

Shapes: B texts, N tokens of one text, T of all texts, E hidden size, L layers, C labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from saa_core.attention import Call
from saa_core.model import Model
from saa_core.run.fallback import token_verdict
from saa_core.run.varlen import check_tokens, encode, mean_by_text
from saa_core.task import margins
from saa_core.types import Policy, Progress

Record = Literal["none", "summary", "full"]
Cancelling = Callable[[], bool] | None
DENSE_BY_GUARD = "the guard could not show that the limit was met"


@dataclass(frozen=True, eq=False)
class Executed:
    """What came out of running a batch of token ids.

    Args:
        states: final hidden states of all texts behind each other, [T, E].
        lengths: tokens of each text, [B].
        call: of the pass whose states these are; holds what was recorded and clocked.
        rejected: the call of a pass that its guard could not vouch for, and that was done again.
        needed: tokens that each layer computed, int64 [B, L]; None of a pass that was not packed.
        probabilities: of a task's labels, [B, C], those that the reference model gave included.
        asked: texts that the reference model answered, bool [B].
        reference: what it was run with; None where it was not asked.
        cache: keys and values of the pass, to write on from; None unless asked for.
        fell_back: the task's reference model computed it, in place of dropping tokens.
    """

    states: Tensor
    lengths: tuple[int, ...]
    call: Call
    rejected: Call | None = None
    needed: Tensor | None = None
    probabilities: Tensor | None = None
    asked: Tensor | None = None
    reference: "Executed | None" = None
    cache: Any = None
    fell_back: bool = False

    @property
    def dense_instead(self) -> bool:
        """Computed densely, although a policy was given."""
        return self.fell_back or (self.call.policy is not None and self.call.used is None)

    @property
    def reruns(self) -> int:
        """Further passes: dense ones that a guard asked for, and those of the reference model."""
        return (self.rejected is not None) + (self.reference is not None)

    @property
    def means(self) -> Tensor:
        """Mean of the final states of each text, [B, E]."""
        if len(self.lengths) == 1:
            return self.states.float().mean(0, keepdim=True)
        return mean_by_text(self.states, torch.tensor(self.lengths, device=self.states.device))

    @property
    def events(self) -> tuple[dict[str, Any], ...]:
        """What a guard of attention did, the rerun included."""
        if self.rejected is None:
            return self.call.events()
        rerun = {"suspected": "bound", "done": "dense", "added": 1.0}
        return (*self.rejected.events(), rerun)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time in attention by stage, of all passes, and of recording it; empty unless clocked."""
        calls = [self.call] if self.rejected is None else [self.rejected, self.call]
        if self.reference is not None:
            calls.append(self.reference.call)
        stages = dict.fromkeys(stage for call in calls for stage in call.seconds)
        return {stage: sum(call.seconds.get(stage, 0.0) for call in calls) for stage in stages}


def execute(
    model: Model,
    batch: Sequence[Sequence[int]],
    policy: Policy | None = None,
    record: Record = "none",
    *,
    clock: bool = False,
    keep_cache: bool = False,
    packed: bool | None = None,
    fall_back: bool = False,
    cancelled: Cancelling = None,
    mass_rows: int | None = None,
    progress: Progress | None = None,
) -> Executed:
    """One pass over a batch, and what its checks ask for beyond it.

    Args:
        batch: token ids of each text, special tokens included.
        policy: None is dense attention as the model does it.
        record: see :class:`saa_core.Call`; only a single text can be recorded.
        clock: measure the time spent in attention, by stage.
        keep_cache: hold keys and values of a language model's single text.
        packed: texts stand behind each other without padding; by default where whole tokens may be
            dropped, or where there is more than one text.
        fall_back: what is asked for is the output alone, so that ``fallback="auto"`` may compute it
            densely, by the task's reference model where tokens would be dropped. Never of what is recorded.
        cancelled: asked before each layer of each pass; see :class:`saa_core.Call`.
        mass_rows, progress: see :class:`saa_core.Call`; progress is called once more at the end, with all
            layers done. Of a packed pass there is none.

    Raises:
        PolicyError: the policy cannot be used with this model or batch, or overrides a layer, head or
            token that does not exist.
        TextError, ModelError: see :func:`saa_core.run.varlen.encode`.
        StoppedError: ``cancelled`` said so.
    """
    fall_back = fall_back and record == "none"
    each: dict[str, Any] = {"clock": clock, "mass_rows": mass_rows}
    each |= {"progress": progress, "cancelled": cancelled}
    call = Call(policy, record, fall_back=fall_back, **each)
    dropping = policy is not None and policy.tokens is not None
    if packed is None:
        packed = dropping or len(batch) > 1
    if policy is not None and fall_back and dropping:
        found_out = token_verdict(model, policy, batch)
        if found_out is not None and found_out.dense:
            check_tokens(model, policy)
            found = _by_reference(model, batch, clock=clock, packed=packed, cancelled=cancelled)
            found.call.kernel_reason = found_out.reason
            return found
    if packed:
        encoded = encode(model, batch, policy, call)
        found = Executed(encoded.states, _lengths(batch), call, needed=encoded.needed.T)
    else:
        found = _forward(model, batch, call, keep_cache)
        checked = call.checked()
        if checked is not None and not checked.met:
            again = Call(None, record, **each)
            again.kernel_reason = DENSE_BY_GUARD
            dense = _forward(model, batch, again, keep_cache)
            found = Executed(dense.states, dense.lengths, again, call, cache=dense.cache)
    if progress is not None and not packed:
        progress(len(model.gates), len(model.gates))
    if model.task is None:
        return found
    return _answered(model, batch, policy, found, record, clock=clock, packed=packed)


def _by_reference(
    model: Model,
    batch: Sequence[Sequence[int]],
    *,
    clock: bool,
    packed: bool,
    cancelled: Cancelling,
) -> Executed:
    """What the task's reference model makes of a batch, where dropping tokens gains no time."""
    reference = model.reference_model
    found = execute(reference, batch, None, clock=clock, packed=packed, cancelled=cancelled)
    return replace(found, fell_back=True)


def _answered(
    model: Model,
    batch: Sequence[Sequence[int]],
    policy: Policy | None,
    found: Executed,
    record: Record,
    *,
    clock: bool,
    packed: bool,
) -> Executed:
    """With the labels' probabilities; texts whose two best are too close go to the reference model."""
    task = model.task
    assert task is not None
    probabilities = task.probabilities(found.means).cpu().clone()  # to be written to
    asked = margins(probabilities) < task.least_margin(policy)
    reference = None
    if bool(asked.any()):
        again = asked.nonzero()[:, 0].tolist()
        unclear = [batch[index] for index in again]
        reference = execute(
            model.reference_model,
            unclear,
            None,
            record,
            clock=clock,
            packed=packed,
            cancelled=found.call.cancelled,
        )
        assert reference.probabilities is not None
        probabilities[again] = reference.probabilities
    return replace(found, probabilities=probabilities, asked=asked, reference=reference)


def _forward(
    model: Model, batch: Sequence[Sequence[int]], call: Call, keep_cache: bool
) -> Executed:
    tokens = torch.tensor([list(ids) for ids in batch], device=model.device)
    extra = {"use_cache": keep_cache} if model.causal else {}
    with torch.inference_mode():
        out = model.hf.base_model(tokens, saa=call, **extra)
    states: Tensor = out.last_hidden_state
    cache = out.past_key_values if keep_cache and model.causal else None
    return Executed(states.flatten(0, 1), _lengths(batch), call, cache=cache)


def _lengths(batch: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(len(ids) for ids in batch)


def forward(model: Model, ids: Tensor, call: Call) -> Tensor:
    """Final hidden states [B, N, E] of a batch of token ids without padding, one plain pass: for
    training and for looking into a layer. Nothing is checked or done again, gradients are kept."""
    extra = {"use_cache": False} if model.causal else {}
    states: Tensor = model.hf.base_model(ids, saa=call, **extra).last_hidden_state
    return states
