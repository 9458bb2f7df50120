"""Block-sparse attention on a CUDA GPU over lists of key blocks (saa_core/triton), by whichever engine is faster.

The lists are made by the launch that decides (attention/fused.py), or here of a decision that is there already.
"""

import torch
from torch import Tensor

from saa_core.errors import KernelError
from saa_core.kernels.engines import Engine, engine_for
from saa_core.kernels.flex import flex_lists
from saa_core.pairs import Allowed, Decision
from saa_core.triton import interpreting, refuses, unavailable
from saa_core.triton.attention import Tuning, attend_lists
from saa_core.triton.decide import Seen, seen_of
from saa_core.triton.lists import Lists, lists_of


def triton(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    decision: Decision,
    allowed: Allowed,
    scale: float,
) -> Tensor:
    """Softmax attention over the kept blocks; [B, H, Q, D].

    Raises:
        KernelError: no CUDA GPU or no Triton, blocks or heads of a size that it does not take, a mask with
            gaps, or gradients are needed.
    """
    reason = unavailable(q_BHQD.device) or triton_refuses(decision.block, allowed, q_BHQD, v_BGKD)
    if reason:
        raise KernelError(f"kernel='triton' cannot run: {reason}, or use kernel='gather'")
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHQD, k_BGKD, v_BGKD)):
        raise KernelError("kernel='triton' has no gradients; use kernel='gather' to train")
    lists = lists_of(decision)
    seen = seen_of(allowed, decision.block, decision.block[0])
    return attend_listed(q_BHQD, k_BGKD, v_BGKD, lists, allowed, scale, seen)


def triton_refuses(block: tuple[int, int], allowed: Allowed, q_BHQD: Tensor, v_BGKD: Tensor) -> str:
    """Reason this decision cannot be executed over lists, or ''."""
    if reason := refuses(block, q_BHQD.shape[-1], v_BGKD.shape[-1]):
        return reason
    return "the attention mask has gaps" if allowed.intervals is None else ""


def engine_of(
    q_BHQD: Tensor, key_heads: int, block: tuple[int, int], live: Tensor | None = None
) -> Engine:
    """The engine that computes attention over such lists: our own where no other can."""
    if interpreting() or live is not None:
        return Engine("triton")
    return engine_for(q_BHQD, key_heads, block)


def attend_listed(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    lists: Lists,
    allowed: Allowed,
    scale: float,
    seen: Seen | None,
    *,
    live: Tensor | None = None,
    engine: Engine | None = None,
) -> Tensor:
    """Attention over lists by one engine; [B, H, Q, D].

    Args:
        seen, live: see :class:`saa_core.triton.decide.Task`.
        engine: by default the one that was measured to be fastest for such heads on this GPU.
    """
    engine = engine or engine_of(q_BHQD, k_BGKD.shape[1], lists.block, live)
    if engine.name != "triton":
        return flex_lists(
            q_BHQD, k_BGKD, v_BGKD, lists, allowed, scale, flash=engine.name == "flash"
        )
    tuning = None if engine.warps is None else Tuning(engine.warps, engine.stages)
    return attend_lists(
        *(q_BHQD, k_BGKD, v_BGKD, lists, scale),
        causal=allowed.causal,
        seen=seen,
        live=live,
        tuning=tuning,
    )
