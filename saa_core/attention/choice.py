"""Which kernel executes the decisions of one call, and who decides."""

from torch import Tensor

from saa_core.attention import fused
from saa_core.attention.clock import StageTimer
from saa_core.attention.fused import failed, usable
from saa_core.attention.plan import Plan, needs_gradients
from saa_core.attention.plan import decide as decide_by_pytorch
from saa_core.errors import KernelError
from saa_core.gates.pair import PairGate
from saa_core.kernels import flex_refuses, flex_unavailable, native_refuses
from saa_core.pairs import Allowed, Decision
from saa_core.triton import unavailable
from saa_core.types import Policy


def decide(
    gate: PairGate, q_BHQD: Tensor, k_BGKD: Tensor, plan: Plan, watch: StageTimer | None = None
) -> Decision:
    """From queries and keys of one layer to what is kept: gate, forced blocks, rule."""
    way = fused.decide if plan.fused else decide_by_pytorch
    return way(gate, q_BHQD, k_BGKD, plan, watch)


def choose_kernel(
    policy: Policy, block: tuple[int, int], allowed: Allowed, q_BHQD: Tensor, *others: Tensor
) -> tuple[str, str]:
    """(kernel, why) for one call. What is asked for by name is what runs, or it raises.

    Args:
        others: keys and values, where they may need gradients that the queries do not.

    Raises:
        KernelError: asked for are kernels that this device's compiler gets wrong.
    """
    if policy.kernel != "auto":
        wrong = policy.kernel == "triton" and not unavailable(q_BHQD.device)
        if wrong and (reason := failed(q_BHQD.device, q_BHQD.dtype)):
            raise KernelError(f"kernel='triton' cannot run: {reason}; use kernel='flex'")
        return policy.kernel, "asked for"
    device = q_BHQD.device.type
    pairwise = block == (1, 1)
    if needs_gradients(q_BHQD, *others):
        kernel = "reference" if pairwise else "gather"
        return kernel, "gradients are needed; forwards the fastest kernel may run in its place"
    said = ""
    for fast in ("native",) if device == "cpu" else ("triton", "flex"):
        if fast == "native":
            reason = native_refuses(q_BHQD)
        elif fast == "triton":
            reason = usable(block, allowed, q_BHQD, others[-1] if others else q_BHQD)
        else:
            reason = flex_unavailable(device) or flex_refuses(block, allowed)
        if not reason:
            return fast, "fastest kernel that works here" + said
        said += f"{'; ' if said else ': '}{fast} cannot run: {reason}"
    if pairwise:
        return "reference", "decided pair by pair, which only kernel 'native' on a CPU gains from"
    return "gather", "fastest kernel that works here" + said
