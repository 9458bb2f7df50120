"""One layer for the Triton kernels and for PyTorch: gate, tensors, what is allowed, what is forced."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saa_core import rules
from saa_core.gates.pair import GateConfig, PairGate, grid
from saa_core.pairs import Allowed, Decision
from saa_core.triton.decide import Chosen, Seen, Task, decide, seen_of
from saa_core.triton.lists import Lists
from saa_core.triton.workspace import Workspace
from saa_core.types import Force, Policy
from tests.problems import mask_of


@dataclass(frozen=True)
class Layer:
    """Everything that one layer depends on."""

    gate: PairGate
    q: Tensor
    k: Tensor
    v: Tensor
    allowed: Allowed
    policy: Policy
    task: Task

    @property
    def seen(self) -> Seen | None:
        return self.task.seen

    @property
    def scale(self) -> float:
        return float(self.q.shape[-1] ** -0.5)

    def codes(self) -> Tensor:
        count = self.allowed.count(self.policy.block)
        codes = rules.forced(self.allowed, self.policy, self.policy.block, count)
        return rules.apply_overrides(
            codes, count, self.allowed, self.policy.force, self.policy.block, self.q.shape[1]
        )

    @torch.no_grad()
    def by_pytorch(self) -> Decision:
        """The oracle, in float32."""
        block, count = self.policy.block, self.allowed.count(self.policy.block)
        score = self.gate(
            *(self.q.float(), self.k.float(), self.allowed),
            grid(self.allowed, block, pooled=self.gate.pooled),
        )
        codes = self.codes()
        keep, threshold = rules.mass(score, codes, count, self.policy.aim)
        return Decision(block, keep, score, threshold, codes, count, self.policy.aim)

    @torch.no_grad()
    def by_triton(self, *, stored: bool = True) -> tuple[Lists, Chosen | None]:
        gate = self.gate
        return decide(
            *(self.q, self.k, (gate.query, gate.key, gate.distance, gate.first), self.task),
            *(self.policy.aim, Workspace(self.q.device)),
            codes=self.codes() if self.policy.force else None,
            stored=stored,
        )


def layer(
    device: torch.device,
    queries: int,
    keys: int | None = None,
    *,
    batch: int = 1,
    heads: int = 2,
    key_heads: int = 1,
    size: int = 32,
    rank: int = 16,
    block: tuple[int, int] = (32, 16),
    pooled: int = 16,
    directed: bool = False,
    causal: bool = True,
    mask: str | None = None,
    bounds: tuple[Tensor, Tensor] | None = None,
    mass: float = 0.8,
    sink: int = 4,
    local: int = 20,
    tail: int = 0,
    force: tuple[Force, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Layer:
    keys = queries if keys is None else keys
    gate = PairGate(GateConfig(heads, key_heads, size, rank, directed, pooled))
    with torch.no_grad():
        gate.distance.normal_()
        gate.first.normal_()
    q, k, v = (
        torch.randn(batch, count, length, size).to(device, dtype)
        for count, length in ((heads, queries), (key_heads, keys), (key_heads, keys))
    )
    given = mask_of(mask, batch, queries, keys, causal)
    allowed = Allowed(
        *(queries, keys, causal, device, None if given is None else given.to(device), bounds)
    )
    policy = Policy(
        mass=mass, sink=sink, local=local, tail=tail, block=block, granularity="block", force=force
    )
    task = Task(
        *(queries, keys, causal, block, pooled, directed, sink, local, tail),
        seen=seen_of(allowed, block, pooled),
    )
    return Layer(gate.to(device), q, k, v, allowed, policy, task)
