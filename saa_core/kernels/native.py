"""Block-sparse attention on a CPU by our own C++ (saa_core/native/attention.cpp).

It is inference only and computes in float32. Any decision and any mask runs: whole blocks are
skipped as such, and what is finer than a tile of 32 queries and a vector of keys is masked inside the
tiles that hold a kept pair.
"""

import ctypes

import torch
from torch import Tensor

from saa_core.errors import KernelError
from saa_core.native import call, rows, structure, unavailable
from saa_core.pairs import Allowed, Decision

MULTIPLE = 16
"""Of the size of key blocks and heads; the floats of a vector (4, 8 or 16) divide it."""

_INPUTS = ("q", "k", "v", "out")
_Problem = structure(
    "Problem",
    (_INPUTS, ctypes.c_void_p),
    ((f"{name}_step" for name in _INPUTS), ctypes.c_int64 * 3),
    ("BHGQKD", ctypes.c_int64),
    (("keep",), ctypes.c_void_p),
    (("M", "S", "bq", "bk"), ctypes.c_int64),
    (("first", "last"), ctypes.c_void_p),
    (("seen_step",), ctypes.c_int64),
    (("scale",), ctypes.c_float),
)


def native(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    decision: Decision,
    allowed: Allowed,
    scale: float,
) -> Tensor:
    """Softmax attention over the kept pairs; [B, H, Q, D].

    Raises:
        KernelError: no compiler, not a CPU, a head size that is no multiple of 16, values of another
            size than keys, or gradients are needed.
    """
    reason = native_refuses(q_BHQD, v_BGKD)
    if reason:
        raise KernelError(f"kernel='native' cannot run: {reason}; use kernel='gather'")
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHQD, k_BGKD, v_BGKD)):
        raise KernelError("kernel='native' has no gradients; use kernel='gather' to train")
    inputs = [rows(x) for x in (q_BHQD, k_BGKD, v_BGKD)]
    keep, block, intervals = decision.keep, decision.block, allowed.intervals
    if intervals is None or block[1] % MULTIPLE:
        keep, block = decision.pair_keep(allowed), (1, 1)
        everything = Allowed(allowed.queries, allowed.keys, False, allowed.device)
        intervals = intervals or everything.intervals
    assert intervals is not None
    keep, first, last = keep.contiguous(), *(bound.contiguous() for bound in intervals)
    B, H, Q, D = q_BHQD.shape
    # Laid out as Transformers wants it next: all heads of one position together.
    out_BHQD = torch.empty(B, Q, H, D).transpose(1, 2)
    problem = _Problem(
        *(x.data_ptr() for x in (*inputs, out_BHQD)),
        *((ctypes.c_int64 * 3)(*x.stride()[:3]) for x in (*inputs, out_BHQD)),
        *(B, H, k_BGKD.shape[1], Q, k_BGKD.shape[2], D),
        keep.data_ptr(),
        *(keep.shape[2], keep.shape[3], *block),
        *(first.data_ptr(), last.data_ptr(), Q if len(first) > 1 else 0),
        scale,
    )
    if Q:
        call("saa_attention", problem)
    return out_BHQD.to(q_BHQD.dtype)


def native_refuses(q_BHQD: Tensor, v_BGKD: Tensor | None = None) -> str:
    """Reason the kernel cannot execute these queries on their device, or ''."""
    reason = unavailable(q_BHQD.device.type)
    head_size = q_BHQD.shape[-1]
    if not reason and v_BGKD is not None and v_BGKD.shape[-1] != head_size:
        return f"keys have {head_size} numbers per head and values {v_BGKD.shape[-1]}"
    if not reason and head_size % MULTIPLE:
        return f"the head size is {head_size}, and it takes multiples of {MULTIPLE}"
    return reason
