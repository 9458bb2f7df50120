"""Gate, rule and attention of one layer in three launches, where the Triton kernels serve.

What is decided is what gates/ and rules/ decide; only ties within rounding may differ. Before the kernels are
used on a device for the first time they have to show that on a small problem, because compilers differ: where
they do not, they are not used there, and the reason says so.
"""

import functools

import torch
from torch import Tensor

from saa_core import rules
from saa_core.attention.clock import StageTimer
from saa_core.attention.plan import Plan
from saa_core.errors import KernelError
from saa_core.gates.pair import GateConfig, PairGate, grid
from saa_core.kernels import attend_listed, reference, triton_refuses
from saa_core.kernels.engines import Engine
from saa_core.pairs import Allowed, Decision
from saa_core.triton import unavailable
from saa_core.triton.decide import Chosen, Task, seen_of
from saa_core.triton.decide import decide as decide_listed
from saa_core.triton.lists import Lists
from saa_core.triton.workspace import Workspace
from saa_core.types import Policy

TIES = 0.02
"""Share of the decided blocks that may differ between the kernels and PyTorch on the small problem."""
NEAR = 0.02
"""Highest relative difference of the attention there."""


def serves(plan: Plan, q_BHQD: Tensor, v_BGKD: Tensor) -> bool:
    """Whether the layers of this plan are decided by the kernels: only the rule "mass" is in them."""
    return (
        plan.kernel == "triton"
        and plan.policy is not None
        and plan.policy.rule_name == "mass"
        and not unavailable(q_BHQD.device)
        and not triton_refuses(plan.block, plan.allowed, q_BHQD, v_BGKD)
    )


def attend(
    gate: PairGate,
    heads: tuple[Tensor, Tensor, Tensor],
    plan: Plan,
    scale: float,
    watch: StageTimer | None = None,
) -> Tensor:
    """Attention of one layer, [B, H, Q, D]; what was decided is in lists only, and is not held."""
    q, k, v = heads
    lists, _ = _decide(gate, q, k, plan, stored=False)
    if watch:
        watch.lap("gate")  # the rule is in it
    task = _task(gate, plan)
    return attend_listed(q, k, v, lists, plan.allowed, scale, task.seen, live=plan.live)


def decide(
    gate: PairGate, q_BHQD: Tensor, k_BGKD: Tensor, plan: Plan, watch: StageTimer | None = None
) -> Decision:
    """The same decision as a map, for whoever looks at it: a record, a guard."""
    policy = plan.policy
    assert policy is not None
    _, found = _decide(gate, q_BHQD, k_BGKD, plan, stored=True)
    assert found is not None
    decision = Decision(
        plan.block,
        found.keep,
        found.score,
        found.threshold,
        plan.forced_for(gate.layer, policy, q_BHQD.shape[1]),
        plan.count,
        gate.target(policy, plan.block),
    )
    if watch:
        watch.lap("gate")
    return decision


def _decide(
    gate: PairGate, q_BHQD: Tensor, k_BGKD: Tensor, plan: Plan, *, stored: bool
) -> tuple[Lists, Chosen | None]:
    policy = plan.policy
    assert policy is not None
    if plan.workspace is None:
        plan.workspace = Workspace(q_BHQD.device)
    by_person = any(entry.layer in (None, gate.layer) for entry in policy.force)
    return decide_listed(
        q_BHQD,
        k_BGKD,
        (gate.query, gate.key, gate.distance, gate.first),
        _task(gate, plan),
        gate.target(policy, plan.block),
        plan.workspace,
        codes=plan.forced_for(gate.layer, policy, q_BHQD.shape[1]) if by_person else None,
        stored=stored,
        listed=not stored,
    )


def _task(gate: PairGate, plan: Plan) -> Task:
    """What the kernels need to know of a call; made once for all layers whose gates pool alike."""
    policy, allowed = plan.policy, plan.allowed
    assert policy is not None
    assert policy.tail is not None
    if gate.pooled not in plan.tasks:
        plan.tasks[gate.pooled] = Task(
            allowed.queries,
            allowed.keys,
            allowed.causal,
            plan.block,
            gate.pooled,
            gate.config.directed,
            policy.sink,
            policy.local,
            policy.tail,
            seen_of(allowed, plan.block, gate.pooled),
            plan.live,
        )
    return plan.tasks[gate.pooled]


def usable(plan_block: tuple[int, int], allowed: Allowed, q_BHQD: Tensor, v_BGKD: Tensor) -> str:
    """Reason why ``kernel="auto"`` does not take the kernels for such a call, or ''."""
    return (
        unavailable(q_BHQD.device)
        or triton_refuses(plan_block, allowed, q_BHQD, v_BGKD)
        or failed(q_BHQD.device, q_BHQD.dtype)
    )


@functools.cache
@torch.inference_mode()
def failed(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """What the kernels got wrong on a small problem on this device, or ''. Found out once per process."""
    draw = torch.Generator().manual_seed(0)
    H, G, Q, D, block = 2, 1, 70, 64, (32, 16)
    gate = PairGate(GateConfig(H, G, D), draw=draw).to(device)
    q, k, v = (torch.randn(1, heads, Q, D, generator=draw).to(device, dtype) for heads in (H, G, G))
    policy = Policy(mass=0.8, tail=16, granularity="block", block=block, kernel="triton")
    allowed = Allowed(Q, Q, True, device)
    plan = Plan(allowed, policy, as_is=False)
    plan.kernel, plan.fused = "triton", True
    try:
        found = decide(gate, q, k, plan)
        lists, _ = _decide(gate, q, k, plan, stored=False)
        ours = Engine("triton")  # others have checks of their own, and compile for long
        out = attend_listed(q, k, v, lists, allowed, D**-0.5, None, engine=ours).float()
    except KernelError as error:
        return str(error)
    except Exception as error:  # what a compiler or a driver raises is not one kind
        return f"they could not be built or run on {device}: {str(error).splitlines()[0]}"
    score = gate(q.float(), k.float(), allowed, grid(allowed, block, pooled=gate.pooled))
    forced = rules.forced(allowed, policy, block, plan.count)
    keep, _ = rules.mass(score, forced, plan.count, gate.target(policy, block))
    differing = float((keep != found.keep).float().mean())
    if not differing <= TIES:
        return f"on {device} they decided {differing:.0%} of the blocks otherwise than PyTorch"
    expected = reference(q.float(), k.float(), v.float(), found, allowed, D**-0.5)
    wrong = float((out - expected).norm() / expected.norm())
    return "" if wrong <= NEAR else f"on {device} their attention was wrong by {wrong:.0%}"
