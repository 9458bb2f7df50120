"""The one function that Transformers calls in place of its attention, and the call that steers it.

The policy comes down as an argument of the forward call (``hf(input_ids, saa=call)``), and what
happened goes back up in that same :class:`Call`. Nothing is stored on the model or in a global.
A forward without ``saa=`` goes to the implementation that the model had before. What the arguments of
that function mean is read in families/arguments.py.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saa_core import rules
from saa_core.errors import KernelError, ModelError, PolicyError, choice
from saa_core.exact import Softmax
from saa_core.families import is_cross_attention
from saa_core.families.arguments import Handed, Views, eager_attention, read
from saa_core.gates.pair import Grid, PairGate, grid
from saa_core.guard import Checked, Inspection
from saa_core.kernels import (
    KERNELS,
    flex_refuses,
    flex_unavailable,
    kept_weights,
    mix,
    native_refuses,
    reference,
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
Dense = Callable[..., tuple[Tensor, Tensor | None]]
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
        met: layers whose attention this call reached.
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
        self.met: set[int] = set()
        self._views: Views = {}
        self._plans: dict[int, Plan] = {}
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
        self, module: nn.Module, handed: Handed, dense: Dense
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of one layer under this call's policy: what is mixed [B, Q, H, D], and the weights
        [B, H, Q, K] where they are asked for.

        Args:
            dense: what the model itself computes; in float32 if it is given True.
        """
        gate: PairGate = module.saa_gate  # type: ignore[assignment]
        layer = gate.layer
        q, k, v, scale, softmax = handed.q, handed.k, handed.v, handed.scale, handed.softmax
        _check_shapes(gate, q, k)
        self.met.add(layer)
        plan = self._plan(gate, handed)
        allowed, policy, dtype = plan.allowed, plan.policy, q.dtype
        if self.observe is not None:
            if softmax.softcap is not None or softmax.bias is not None:
                raise ModelError(
                    f"observe: the attention of this model has {softmax.kinds}, which gates cannot "
                    "learn from yet; train them on a model without"
                )
            self.observe(layer, q, k, allowed, scale)
        watch = StageTimer(self.seconds, q.device) if self.clock else None
        decision, weights = None, None
        guard = self._guard_for(gate, q, policy)
        if guard is not None and gate.ood_detector is not None:
            guard.look_at(q, allowed, gate.ood_detector)
            if watch:
                watch.lap("guard")
        resting = guard is not None and self.record == "none" and bool(guard.rest.all())
        if guard is not None and resting:
            guard.undecided()
        if policy is None or resting:
            as_the_model = plan.as_is or not softmax.plain or handed.asks_weights
            if as_the_model:
                out, weights = dense()
            else:
                q, k, v = _fast_dtype(q, k, v)
                out = dense_everywhere(q, k, v, allowed, scale).transpose(1, 2)
        else:
            q, k, v = _fast_dtype(q, k, v)
            with torch.no_grad():  # kept or not has no gradient
                decision = decide(gate, q, k, plan, watch)
                if guard is not None:
                    planned = 1 - decision.target if policy.budget is None else guard.limit
                    decision = guard.correct(
                        *(layer, q, k, decision, allowed, scale, planned, gate.sound, softmax)
                    )
                    if watch:
                        watch.lap("guard")
            if handed.asks_weights:
                self.kernel, self.kernel_reason = "reference", "attention weights are asked for"
                weights = kept_weights(q, k, decision, allowed, scale, softmax)
                out = mix(weights, v).transpose(1, 2)
                weights = weights.to(dtype)
            else:
                out = self._execute(plan, (q, k, v), decision, scale, softmax).transpose(1, 2)
        out = out.to(dtype)
        if watch:
            watch.lap("dense" if policy is None else "kernel")
        if self.record != "none":
            self.layers[layer] = record_layer(
                *(q, k, decision, allowed, scale),
                full=self.record == "full",
                mass_map=gate.mass_map(plan.block),
                softmax=softmax,
            )
        return out, weights

    def _execute(
        self,
        plan: "Plan",
        heads: tuple[Tensor, Tensor, Tensor],
        decision: Decision,
        scale: float,
        softmax: Softmax,
    ) -> Tensor:
        """The plan's kernel, or the one that can where scores are more than scaled; [B, H, Q, D]."""
        q, k, v = heads
        assert plan.policy is not None
        reason = softmax.kinds and f"attention has {softmax.kinds}"
        if not reason and q.device.type == "cpu" and plan.kernel == "native":
            reason = native_refuses(q, v)
        if not reason:
            self.kernel, self.kernel_reason = plan.kernel, plan.kernel_reason
            return _execute(plan, q, k, v, decision, scale)
        capable = ("reference",) if softmax.kinds else ("reference", "gather")
        if plan.policy.kernel not in ("auto", *capable):
            raise KernelError(
                f"kernel={plan.policy.kernel!r} cannot run: {reason}; choose one of: auto, "
                f"{', '.join(capable)}"
            )
        name = capable[-1] if plan.policy.kernel == "auto" else plan.policy.kernel
        if plan.block == (1, 1) and plan.policy.kernel == "auto":
            name = "reference"
        self.kernel, self.kernel_reason = name, f"{reason}, which kernel {name!r} computes"
        inputs = (q, k, v, decision, plan.allowed, scale)
        return reference(*inputs, softmax) if name == "reference" else KERNELS[name](*inputs)

    def _guard_for(
        self, gate: PairGate, q_BHQD: Tensor, policy: Policy | None
    ) -> Inspection | None:
        """The guard of this forward pass; a pass begins anew with the first layer."""
        if policy is None or policy.guard is None or q_BHQD.shape[2] == 1:
            return None
        if policy.guard.missed_mass is None:
            return None
        if self._inspection is None or gate.layer == 0:
            self._inspection = Inspection(policy.guard, gate.layers, len(q_BHQD))
        return self._inspection

    def _plan(self, gate: PairGate, handed: Handed) -> "Plan":
        """What all layers with the same mask share; made once per call."""
        view, q = handed.view, handed.q
        if id(view) not in self._plans:  # the call holds the view, so that its id stays its own
            allowed = Allowed(q.shape[2], view.keys, view.causal, q.device, view.visible)
            policy = self.policy
            if policy is not None:
                rules.check_layers(policy.force, gate.layers)
            if policy is not None and policy.falls_back(view.keys):
                self.kernel_reason = (
                    f"{view.keys} tokens are fewer than the crossover of {policy.crossover}, and the "
                    "policy falls back to dense there"
                )
                self.used = policy = None
            plan = self._plans[id(view)] = Plan(allowed, policy, as_is=self.policy is None)
            if policy is not None:
                plan.kernel, plan.kernel_reason = choose_kernel(
                    *(policy, plan.block, allowed, q), *(handed.k, handed.v)
                )
        return self._plans[id(view)]


def _check_shapes(gate: PairGate, q_BHQD: Tensor, k_BGKD: Tensor) -> None:
    """Raises ModelError where a layer's attention is not what its gate was made for."""
    made = (gate.config.heads, gate.config.key_heads, gate.config.head_size)
    came = (q_BHQD.shape[1], k_BGKD.shape[1], q_BHQD.shape[-1])
    if made != came or k_BGKD.shape[-1] != q_BHQD.shape[-1]:
        raise ModelError(
            f"hf: attention layer {gate.layer} has {came[0]} query heads and {came[1]} key heads of "
            f"{came[2]} numbers, and its gate was made for {made[0]}, {made[1]} and {made[2]}; say the "
            "right ones in a family of its own (saa_core/families)"
        )


class Plan:
    """Everything about one call that does not depend on the layer's content."""

    kernel = "dense"
    kernel_reason = ""
    forced: Tensor | None = None
    count: Tensor | None = None

    def __init__(self, allowed: Allowed, policy: Policy | None, *, as_is: bool) -> None:
        self.allowed = allowed
        self.policy = policy  # what is followed; None is dense
        self.as_is = as_is  # dense exactly as the model does it, and not in what is fastest
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
    policy: Policy, block: tuple[int, int], allowed: Allowed, q_BHQD: Tensor, *others: Tensor
) -> tuple[str, str]:
    """(kernel, why) for one call. What is asked for by name is what runs, or it raises.

    Args:
        others: keys and values, where they may need gradients that the queries do not.
    """
    if policy.kernel != "auto":
        return policy.kernel, "asked for"
    device = q_BHQD.device.type
    pairwise = block == (1, 1)
    if _needs_gradients(q_BHQD, *others):
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
    if _needs_gradients(q_BHQD, k_BGKD, v_BGKD) and not by_name:
        out: Tensor = _Recomputed.apply(plan.kernel, *inputs)  # type: ignore[no-untyped-call]
        return out
    return KERNELS[plan.kernel](*inputs)


def _needs_gradients(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


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
        kernel = ctx.kernel if native_refuses(q_BHQD, v_BGKD) else KERNELS["native"]
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


class Name(str):
    """The name of an attention implementation with SAA in it, which its configuration takes for the base.

    Modelling files and configurations ask for ``"eager"`` or ``"sdpa"`` to decide on masks, on
    ``output_attentions``, on what may be saved; they go on to find what was there before. The registry
    looks names up by their hash, which is the name's own. Where there is a name there is an entry: also
    in a process that has only loaded an attached model.
    """

    def __new__(cls, value: str) -> "Name":
        register()
        return super().__new__(cls, value)

    @property
    def base(self) -> str:
        return str(self).removeprefix(PREFIX)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or self.base == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return str.__hash__(self)


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The eager attention of the module's own modelling file."""
    result: tuple[Tensor, Tensor | None]
    if getattr(module, "saa_upcast", False):  # GPT-2 may go another way (see attach)
        mask = args[3] if len(args) > 3 else kwargs.get("attention_mask")
        result = module._upcast_and_reordered_attn(*args[:3], mask)  # type: ignore[operator]
        return result
    result = eager_attention(module)(module, *args, **kwargs)
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
        def dense(exact: bool = False) -> tuple[Tensor, Tensor | None]:
            if not exact:
                return original(module, query, key, value, attention_mask, **kwargs)
            mask = attention_mask
            if mask is not None and mask.is_floating_point():
                mask = mask.float()
            return original(module, query.float(), key.float(), value.float(), mask, **kwargs)

        if saa is None:
            return dense()
        check_call(saa)
        if not hasattr(module, "saa_gate"):
            if is_cross_attention(module):
                return dense()
            raise ModelError(
                f"saa=: an attention of {type(module).__name__} has no gate; call saa_core.attach on "
                "this model first"
            )
        own = eager_attention(module) if original is _eager else None
        heads = (query, key, value)
        handed = read(own, module, heads, attention_mask, kwargs, saa._views)
        out, weights = saa.attend(module, handed, dense)
        return out.contiguous(), weights

    return attention


def check_call(saa: object) -> None:
    """Raises where ``saa=`` is nothing that one forward can follow."""
    if not isinstance(saa, Call):
        raise ModelError(f"saa={saa!r} must be a saa_core.Call, for example Call(Policy())")
    if saa.policy is not None and saa.policy.tokens is not None:
        raise PolicyError(
            f"tokens={saa.policy.tokens!r}: inside a model's own forward no token can be dropped; "
            "use saa_core.run or saa_core.run.classify"
        )


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
