"""What all layers of one call share, and from queries and keys to a decision and its kernel."""

from functools import cached_property

import torch
from torch import Tensor

from saa_core import rules
from saa_core.attention.clock import StageTimer
from saa_core.gates.pair import Grid, PairGate, grid
from saa_core.pairs import Allowed, Decision
from saa_core.triton.decide import Task
from saa_core.triton.workspace import Workspace
from saa_core.types import Force, Policy


class Plan:
    """Everything about one call that does not depend on the layer's content."""

    kernel = "dense"
    kernel_reason = ""
    fused = False
    """Decided by the Triton kernels as well (attention/fused.py)."""

    def __init__(
        self,
        allowed: Allowed,
        policy: Policy | None,
        *,
        as_is: bool,
        live: Tensor | None = None,
    ) -> None:
        self.allowed = allowed
        self.policy = policy  # what is followed; None is dense
        self.as_is = as_is  # dense exactly as the model does it, and not in what is fastest
        self.grids: dict[int, Grid] = {}  # by the number of queries that share a score row
        self.by_person: dict[tuple[Force, ...], Tensor] = {}
        self.block = (1, 1) if policy is None else policy.block_for(allowed.keys)
        self.live = live  # see Call
        self.tasks: dict[int, Task] = {}  # of the Triton kernels, by the same number
        self.workspace: Workspace | None = None

    @cached_property
    def count(self) -> Tensor:
        """Allowed pairs per block, int32 [B or 1, 1, M, S]."""
        return self.allowed.count(self.block)

    @cached_property
    def forced(self) -> Tensor:
        """Blocks that are kept whatever a gate says, uint8 [B or 1, 1, M, S]."""
        assert self.policy is not None
        return rules.forced(self.allowed, self.policy, self.block, self.count)

    def grid_for(self, pooled: int) -> Grid:
        """The blocks as gates see them that score one row for so many queries."""
        if pooled not in self.grids:
            self.grids[pooled] = grid(self.allowed, self.block, pooled=pooled)
        return self.grids[pooled]

    def forced_for(self, layer: int, policy: Policy, heads: int) -> Tensor:
        """Blocks that one layer keeps, or drops, whatever its gate says."""
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
