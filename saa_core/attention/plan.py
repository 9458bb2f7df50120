"""What all layers of one call share, and from queries and keys to a decision and its kernel."""

import torch
from torch import Tensor

from saa_core import rules
from saa_core.attention.clock import StageTimer
from saa_core.gates.pair import Grid, PairGate, grid
from saa_core.kernels import (
    flex_refuses,
    flex_unavailable,
    native_refuses,
)
from saa_core.pairs import Allowed, Decision
from saa_core.types import Force, Policy


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


def needs_gradients(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


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
    if needs_gradients(q_BHQD, *others):
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
