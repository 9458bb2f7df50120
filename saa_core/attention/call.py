"""The call that steers one forward pass.

The policy comes down as an argument of the forward call (``hf(input_ids, saa=call)``), and what
happened goes back up in that same :class:`Call`. Nothing is stored on the model or in a global.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saa_core import rules
from saa_core.attention import fused
from saa_core.attention.choice import choose_kernel, decide
from saa_core.attention.clock import Span, StageTimer
from saa_core.attention.execution import execute_decision, fast_dtype
from saa_core.attention.fallback import crossover_reason, pair_verdict
from saa_core.attention.plan import Plan, needs_gradients
from saa_core.errors import KernelError, ModelError, PolicyError, StoppedError, choice
from saa_core.exact import Softmax
from saa_core.families.arguments import Handed, Views
from saa_core.gates.pair import PairGate
from saa_core.guard import Checked, Inspection
from saa_core.kernels import (
    KERNELS,
    engine_of,
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
from saa_core.types import Policy, Progress

RECORDS = ("none", "summary", "full")
Dense = Callable[..., tuple[Tensor, Tensor | None]]
Observer = Callable[[int, Tensor, Tensor, Allowed, float], None]


class Call:
    """One forward pass: the policy on its way in, the record on its way out.

    Args:
        policy: what to keep; None is plain dense attention, which can be recorded too.
        record: "none" (timed calls), "summary" (figures per layer and head) or "full" (every
            decision, and the true attention mass to compare it with, which costs a dense pass).
        clock: measure the time spent in attention, by stage.
        fall_back: under ``fallback="auto"`` a text may be computed densely; by default where nothing is
            recorded or observed.
        observe: called with (layer, q_BHQD, k_BGKD, allowed, scale) before each layer decides.
        live: queries and keys of the text at hand, int32 [2] on the device: for a captured graph, which
            computes every text up to the length that it was captured with (run/captured.py).
        cancelled: asked before each layer; where it says True the call ends with StoppedError.
        mass_rows: a full record computes the true attention mass of so many drawn queries, where a text has
            more; None: of every query, however long that takes.
        progress: called with (layers that are done, layers) as each layer begins. What it raises ends the
            pass there.

    Attributes:
        layers: what was recorded, by layer index.
        seconds: wall time by stage ("gate", "rule", "kernel", or "dense"; "record" where something is
            recorded), if ``clock``.
        spans: the same layer by layer, in order.
        kernel: name of the kernel that ran, with the reason for the choice in ``kernel_reason``.
        used: the policy that was followed, with numbers for its defaults: None also where it fell back to
            dense.
        met: layers whose attention this call reached.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        record: Literal["none", "summary", "full"] = "none",
        *,
        clock: bool = False,
        observe: Observer | None = None,
        fall_back: bool | None = None,
        live: Tensor | None = None,
        cancelled: Callable[[], bool] | None = None,
        mass_rows: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if record not in RECORDS:
            raise PolicyError(choice("record", record, RECORDS))
        if mass_rows is not None and not (isinstance(mass_rows, int) and mass_rows >= 2):
            raise PolicyError(
                f"mass_rows={mass_rows!r} must be a whole number >= 2, or None for all"
            )
        if policy is not None:
            if policy.kernel not in ("auto", *KERNELS):
                raise PolicyError(choice("kernel", policy.kernel, ("auto", *KERNELS)))
            if policy.rule_name not in rules.RULES:
                raise PolicyError(choice("rule", policy.rule, ("auto", *rules.RULES)))
        self.policy = policy
        self.record = record
        self.clock = clock
        self.observe = observe
        self.live = live
        self.cancelled = cancelled
        self.mass_rows = mass_rows
        self.progress = progress
        looked_at = record != "none" or observe is not None
        self.fall_back = not looked_at if fall_back is None else fall_back
        self.layers: dict[int, LayerRecord] = {}
        self.seconds: dict[str, float] = {}
        self.spans: list[Span] = []
        self.used = policy
        self.kernel = "dense"
        self.kernel_reason = "no policy was given"
        self.met: set[int] = set()
        self._views: Views = {}
        self._plans: dict[int, Plan] = {}
        self._inspection: Inspection | None = None

    def stop_if_cancelled(self) -> None:
        """Raises StoppedError where nobody waits for this call any more."""
        if self.cancelled is not None and self.cancelled():
            raise StoppedError("nobody waits for this call any more")

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
        self.stop_if_cancelled()
        gate: PairGate = module.saa_gate  # type: ignore[assignment]
        layer = gate.layer
        q, k, v, scale, softmax = handed.q, handed.k, handed.v, handed.scale, handed.softmax
        _check_shapes(gate, q, k)
        if self.progress is not None:
            self.progress(layer, gate.layers)
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
        watch = StageTimer(self.seconds, q.device, self.spans, layer) if self.clock else None
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
                q, k, v = fast_dtype(q, k, v)
                out = dense_everywhere(q, k, v, allowed, scale).transpose(1, 2)
        elif self._only_lists(plan, guard, handed):
            self.kernel, self.kernel_reason = plan.kernel, plan.kernel_reason
            with torch.no_grad():
                out = fused.attend(gate, (q, k, v), plan, scale, watch).transpose(1, 2)
        else:
            q, k, v = fast_dtype(q, k, v)
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
                out = self.execute_decision(plan, (q, k, v), decision, scale, softmax).transpose(
                    1, 2
                )
        out = out.to(dtype)
        if watch:
            watch.lap("dense" if policy is None else "kernel")
        if self.record != "none":
            self.layers[layer] = record_layer(
                *(q, k, decision, allowed, scale),
                full=self.record == "full",
                mass_map=gate.mass_map(plan.block),
                softmax=softmax,
                mass_rows=self.mass_rows,
            )
            if watch:
                watch.lap("record")
        return out, weights

    def _only_lists(self, plan: Plan, guard: Inspection | None, handed: Handed) -> bool:
        """Whether nobody but the attention needs what this layer decides."""
        return (
            plan.fused
            and self.record == "none"
            and guard is None
            and handed.softmax.plain
            and not handed.asks_weights
            and not needs_gradients(handed.q, handed.k, handed.v)
        )

    def execute_decision(
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
            return execute_decision(plan, q, k, v, decision, scale)
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
            if policy is not None and (reason := self._dense_because(policy, gate, handed)):
                self.kernel_reason = reason
                self.used = policy = None
            if policy is not None:
                self.used = policy = gate.resolve(policy, view.keys)
            as_is = self.policy is None or (policy is None and self.policy.fallback == "auto")
            plan = self._plans[id(view)] = Plan(allowed, policy, as_is=as_is, live=self.live)
            if policy is not None:
                plan.kernel, plan.kernel_reason = choose_kernel(
                    *(policy, plan.block, allowed, q), *(handed.k, handed.v)
                )
                plan.fused = fused.serves(plan, q, handed.v)
                if plan.fused:
                    engine = engine_of(q, handed.k.shape[1], plan.block, self.live)
                    plan.kernel_reason += f"; attention over the lists by {engine.name}"
                if self.live is not None and not plan.fused:
                    raise KernelError(
                        f"live=: lengths on the device are read by kernel='triton' under the rule 'mass', "
                        f"and here runs {plan.kernel!r} ({plan.kernel_reason}); leave live out"
                    )
        return self._plans[id(view)]

    def _dense_because(self, policy: Policy, gate: PairGate, handed: Handed) -> str:
        """Why the policy falls back for this text; empty: it does not."""
        q, keys = handed.q, handed.view.keys
        reason = crossover_reason(policy, keys)
        # Measured are whole texts, forwards.
        measured = q.shape[2] == keys and not needs_gradients(q, handed.k, handed.v)
        if reason or not self.fall_back or not measured:
            return reason
        found = pair_verdict(policy, gate, keys, q.dtype, q.device)
        return found.reason if found is not None and found.dense else ""


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
