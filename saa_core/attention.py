"""The one function that Transformers calls in place of its attention, and the call that steers it.

The policy comes down as an argument of the forward call (``hf(input_ids, saa=call)``), and what
happened goes back up in that same :class:`Call`. Nothing is stored on the model or in a global.
A forward without ``saa=`` goes to the implementation that the model had before.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saa_core import rules
from saa_core.errors import ModelError, PolicyError, choice
from saa_core.gates.pair import Grid, PairGate, grid
from saa_core.guard import Checked, Inspection
from saa_core.kernels import (
    KERNELS,
    flex_refuses,
    flex_unavailable,
    native_refuses,
)
from saa_core.kernels import (
    dense as dense_everywhere,
)
from saa_core.pairs import Allowed, Decision
from saa_core.trace.record import LayerRecord, build_trace, record_layer
from saa_core.trace.trace import Trace
from saa_core.types import Force, Policy

RECORDS = ("none", "summary", "full")
PREFIX = "saa_"
Observer = Callable[[int, Tensor, Tensor, Allowed, float], None]


class Call:
    """One forward pass: the policy on its way in, the record on its way out.

    Args:
        policy: what to keep; None is plain dense attention, which can be recorded too.
        record: "none" (timed calls), "summary" (figures per layer and head) or "full" (every
            decision, and the true attention mass to compare it with, which costs a dense pass).
        clock: measure the time spent in attention, by stage.
        observe: called with (layer, q_BHQD, k_BGKD, allowed, scale) before each layer decides.

    Attributes:
        layers: what was recorded, by layer index.
        seconds: wall time by stage ("gate", "rule", "kernel", or "dense"), if ``clock``.
        kernel: name of the kernel that ran, with the reason for the choice in ``kernel_reason``.
        used: the policy that was followed: None also where it fell back to dense.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        record: Literal["none", "summary", "full"] = "none",
        *,
        clock: bool = False,
        observe: Observer | None = None,
    ) -> None:
        if record not in RECORDS:
            raise PolicyError(choice("record", record, RECORDS))
        if policy is not None:
            if policy.kernel not in ("auto", *KERNELS):
                raise PolicyError(choice("kernel", policy.kernel, ("auto", *KERNELS)))
            if policy.rule_name not in rules.RULES:
                raise PolicyError(choice("rule", policy.rule, ("auto", *rules.RULES)))
        self.policy = policy
        self.record = record
        self.clock = clock
        self.observe = observe
        self.layers: dict[int, LayerRecord] = {}
        self.seconds: dict[str, float] = {}
        self.used = policy
        self.kernel = "dense"
        self.kernel_reason = "no policy was given"
        self._plans: dict[tuple[int, int, int, bool], Plan] = {}
        self._inspection: Inspection | None = None

    def checked(self, item: int = 0) -> Checked | None:
        """What the guard found out about one batch item; None where no guard was at work."""
        return None if self._inspection is None else self._inspection.checked(item)

    def events(self, item: int = 0) -> tuple[dict[str, Any], ...]:
        """What the guard did to one batch item, layer by layer, and at last what it found."""
        if self._inspection is None:
            return ()
        own = [
            {key: value for key, value in event.items() if key != "item"}
            for event in self._inspection.events
            if event["item"] == item
        ]
        return (*own, {"suspected": "result", **asdict(self._inspection.checked(item))})

    def trace(self, item: int = 0, **known: Any) -> Trace:
        """What was recorded of one batch item; what only a text gives is None unless given here.

        Raises:
            TraceError: nothing was recorded, or the item does not exist.
        """
        known = {"events": self.events(item), **known}
        return build_trace(self.layers, self.used, self.kernel, self.kernel_reason, item, **known)

    def attend(
        self,
        module: nn.Module,
        q_BHQD: Tensor,
        k_BGKD: Tensor,
        v_BGKD: Tensor,
        attention_mask: Tensor | None,
        scale: float,
        dense: Callable[[], Tensor],
    ) -> Tensor:
        """Attention of one layer under this call's policy; [B, H, Q, D]."""
        gate: PairGate = module.saa_gate  # type: ignore[assignment]
        layer = gate.layer
        plan = self._plan(module, q_BHQD, k_BGKD, attention_mask)
        if self.observe is not None:
            self.observe(layer, q_BHQD, k_BGKD, plan.allowed, scale)
        watch = StageTimer(self.seconds, q_BHQD.device) if self.clock else None
        decision, policy, dtype = None, plan.policy, q_BHQD.dtype
        guard = self._guard_for(module, layer, q_BHQD, policy)
        if guard is not None and gate.ood_detector is not None:
            guard.look_at(q_BHQD, plan.allowed, gate.ood_detector)
            if watch:
                watch.lap("guard")
        if not plan.as_is:
            q_BHQD, k_BGKD, v_BGKD = _fast_dtype(q_BHQD, k_BGKD, v_BGKD)
        if plan.as_is:
            out = dense()
        elif policy is None:
            out = dense_everywhere(q_BHQD, k_BGKD, v_BGKD, plan.allowed, scale)
        elif guard is not None and self.record == "none" and bool(guard.rest.all()):
            guard.undecided()
            out = dense_everywhere(q_BHQD, k_BGKD, v_BGKD, plan.allowed, scale)
        else:
            with torch.no_grad():  # kept or not has no gradient
                decision = decide(gate, q_BHQD, k_BGKD, plan, watch)
                if guard is not None:
                    planned = 1 - decision.target if policy.budget is None else guard.limit
                    decision = guard.correct(
                        *(layer, q_BHQD, k_BGKD, decision, plan.allowed, scale, planned, gate.sound)
                    )
                    if watch:
                        watch.lap("guard")
            out = _execute(plan, q_BHQD, k_BGKD, v_BGKD, decision, scale)
        out = out.to(dtype)
        if watch:
            watch.lap("dense" if policy is None else "kernel")
        if self.record != "none":
            self.layers[layer] = record_layer(
                *(q_BHQD, k_BGKD, decision, plan.allowed, scale),
                full=self.record == "full",
                mass_map=gate.mass_map(plan.block),
            )
        return out

    def _guard_for(
        self, module: nn.Module, layer: int, q_BHQD: Tensor, policy: Policy | None
    ) -> Inspection | None:
        """The guard of this forward pass; a pass begins anew with the first layer."""
        if policy is None or policy.guard is None or q_BHQD.shape[2] == 1:
            return None
        if policy.guard.missed_mass is None:
            return None
        if self._inspection is None or layer == 0:
            layers = int(module.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
            self._inspection = Inspection(policy.guard, layers, len(q_BHQD))
        return self._inspection

    def _plan(
        self, module: nn.Module, q_BHQD: Tensor, k_BGKD: Tensor, mask: Tensor | None
    ) -> "Plan":
        """What all layers with the same mask share; made once per call."""
        causal = mask is None and bool(getattr(module, "is_causal", True))
        Q, K = q_BHQD.shape[2], k_BGKD.shape[2]
        key = (id(mask), Q, K, causal)
        if key not in self._plans:
            allowed = Allowed(Q, K, causal and Q > 1, q_BHQD.device, _as_bool(mask))
            policy = self.policy
            if policy is not None:
                rules.check_layers(policy.force, module.config.num_hidden_layers)  # type: ignore
            if policy is not None and policy.falls_back(K):
                self.kernel_reason = (
                    f"{K} tokens are fewer than the crossover of {policy.crossover}, and the "
                    "policy falls back to dense there"
                )
                self.used = policy = None
            plan = self._plans[key] = Plan(allowed, mask, policy, as_is=self.policy is None)
            if policy is not None:
                self.kernel, self.kernel_reason = choose_kernel(policy, plan.block, allowed, q_BHQD)
                plan.kernel = self.kernel
        return self._plans[key]


class Plan:
    """Everything about one call that does not depend on the layer's content."""

    kernel = "dense"
    forced: Tensor | None = None
    count: Tensor | None = None

    def __init__(
        self, allowed: Allowed, mask: Tensor | None, policy: Policy | None, *, as_is: bool
    ) -> None:
        self.allowed = allowed
        self.policy = policy  # what is followed; None is dense
        self.as_is = as_is  # dense exactly as the model does it, and not in what is fastest
        self.mask = mask  # held, so that its id stays its own for as long as the call lives
        self.grids: dict[int, Grid] = {}  # by the number of queries that share a score row
        self.by_person: dict[tuple[Force, ...], Tensor] = {}
        self.block = (1, 1) if policy is None else policy.block_for(allowed.keys)
        if policy is not None:
            self.count = allowed.count(self.block)
            self.forced = rules.forced(allowed, policy, self.block, self.count)

    def grid_for(self, pooled: int) -> Grid:
        """The blocks as gates see them that score one row for so many queries."""
        if pooled not in self.grids:
            self.grids[pooled] = grid(self.allowed, self.block, pooled=pooled)
        return self.grids[pooled]

    def forced_for(self, layer: int, policy: Policy, heads: int) -> Tensor:
        """Blocks that one layer keeps, or drops, whatever its gate says."""
        assert self.forced is not None
        assert self.count is not None
        entries = tuple(entry for entry in policy.force if entry.layer in (None, layer))
        if entries not in self.by_person:
            self.by_person[entries] = rules.apply_overrides(
                self.forced, self.count, self.allowed, entries, self.block, heads
            )
        return self.by_person[entries]


def decide(
    gate: PairGate, q_BHQD: Tensor, k_BGKD: Tensor, plan: Plan, watch: "StageTimer | None" = None
) -> Decision:
    """From queries and keys of one layer to what is kept: gate, forced blocks, rule."""
    policy = plan.policy
    assert policy is not None
    assert plan.count is not None
    score = gate(q_BHQD, k_BGKD, plan.allowed, plan.grid_for(gate.pooled))
    if watch:
        watch.lap("gate")
    forced = plan.forced_for(gate.layer, policy, score.shape[1])
    target = gate.target(policy, plan.block)
    keep, threshold = rules.RULES[policy.rule_name](score, forced, plan.count, target)
    decision = Decision(plan.block, keep, score, threshold, forced, plan.count, target)
    if watch:
        watch.lap("rule")
    return decision


def choose_kernel(
    policy: Policy, block: tuple[int, int], allowed: Allowed, q_BHQD: Tensor
) -> tuple[str, str]:
    """(kernel, why) for one call. What is asked for by name is what runs, or it raises."""
    if policy.kernel != "auto":
        return policy.kernel, "asked for"
    device = q_BHQD.device.type
    pairwise = block == (1, 1)
    if q_BHQD.requires_grad and torch.is_grad_enabled():
        kernel = "reference" if pairwise else "gather"
        return kernel, "gradients are needed; forwards the fastest kernel may run in its place"
    fast = "native" if device == "cpu" else "flex"
    if fast == "native":
        reason = native_refuses(q_BHQD)
    else:
        reason = flex_unavailable(device) or flex_refuses(block, allowed)
    if not reason:
        return fast, "fastest kernel that works here"
    if pairwise:
        return "reference", "decided pair by pair, which only kernel 'native' on a CPU gains from"
    return "gather", f"{fast} cannot run here: {reason}"


def _execute(
    plan: Plan, q_BHQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, decision: Decision, scale: float
) -> Tensor:
    """Runs the plan's kernel; where gradients are needed and none was asked for by name, by the
    fastest kernel forwards."""
    inputs = (q_BHQD, k_BGKD, v_BGKD, decision, plan.allowed, scale)
    by_name = plan.policy is not None and plan.policy.kernel != "auto"
    if q_BHQD.requires_grad and torch.is_grad_enabled() and not by_name:
        out: Tensor = _Recomputed.apply(plan.kernel, *inputs)  # type: ignore[no-untyped-call]
        return out
    return KERNELS[plan.kernel](*inputs)


class _Recomputed(torch.autograd.Function):
    """A kernel that holds nothing but its inputs: what its gradients need (the gathered keys and values
    of every query block, many times the keys themselves) is computed on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        q_BHQD: Tensor,
        k_BGKD: Tensor,
        v_BGKD: Tensor,
        decision: Decision,
        allowed: Allowed,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(q_BHQD, k_BGKD, v_BGKD)
        ctx.kernel, ctx.rest = KERNELS[name], (decision, allowed, scale)
        kernel = ctx.kernel if native_refuses(q_BHQD) else KERNELS["native"]
        return kernel(q_BHQD, k_BGKD, v_BGKD, *ctx.rest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        inputs = [x.detach().requires_grad_(True) for x in ctx.saved_tensors]
        with torch.enable_grad():
            out = ctx.kernel(*inputs, *ctx.rest)
        return None, *torch.autograd.grad(out, inputs, grad), None, None, None


def _fast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """float32 on a CPU, where attention in half precision is slower."""
    if tensors[0].device.type == "cpu":
        return tuple(tensor.float() for tensor in tensors)
    return tensors


def _as_bool(mask: Tensor | None) -> Tensor | None:
    """bool [B, 1, Q, K] from Transformers' mask, boolean or additive."""
    if mask is None or mask.dtype == torch.bool:
        return mask
    return mask == 0


class StageTimer:
    """Adds the time since the last lap to a stage; waits for the device where work is queued."""

    def __init__(self, seconds: dict[str, float], device: torch.device) -> None:
        self.seconds = seconds
        self.device = device
        self.last = self._now()

    def lap(self, stage: str) -> None:
        now = self._now()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The eager attention of the module's own modelling file."""
    own = sys.modules[type(module).__module__].eager_attention_forward
    result: tuple[Tensor, Tensor | None] = own(module, *args, **kwargs)
    return result


BASES = ("eager", "sdpa")
"""Attention implementations that a model may have when SAA is attached."""


def _make(
    original: Callable[..., tuple[Tensor, Tensor | None]],
) -> Callable[..., tuple[Tensor, Tensor | None]]:

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        saa: Call | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if saa is None:
            return original(module, query, key, value, attention_mask, **kwargs)
        if not isinstance(saa, Call):
            raise ModelError(f"saa={saa!r} must be a saa_core.Call, for example Call(Policy())")
        if saa.policy is not None and saa.policy.tokens is not None:
            raise PolicyError(
                f"tokens={saa.policy.tokens!r}: inside a model's own forward no token can be dropped; "
                "use saa_core.run or saa_core.run.classify"
            )
        scaling = kwargs.get("scaling")
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)

        def dense() -> Tensor:
            return original(module, query, key, value, attention_mask, **kwargs)[0].transpose(1, 2)

        out = saa.attend(module, query, key, value, attention_mask, scale, dense)
        return out.transpose(1, 2).contiguous(), None

    return attention


def register() -> None:
    """Makes the attention known to Transformers, with its mask: without one, causality is lost."""
    # Here: they take longer to import than PyTorch, and a policy or a call needs none of them.
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import eager_mask, sdpa_mask

    implementations: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
        (_eager, eager_mask),
        (sdpa_attention_forward, sdpa_mask),
    )
    for base, (function, mask) in zip(BASES, implementations, strict=True):
        AttentionInterface.register(PREFIX + base, _make(function))
        AttentionMaskInterface.register(PREFIX + base, mask)
