"""Executes a decision. One signature, several implementations; none of them changes the decision.

    kernel(q_BHQD, k_BGKD, v_BGKD, decision, allowed, scale) -> out_BHQD

A query with no allowed key gets zeros. `dense` computes every allowed pair and needs no decision.
"""

from collections.abc import Callable

from torch import Tensor

from saa_core.kernels.dense import dense
from saa_core.kernels.flex import flex, flex_refuses, flex_unavailable
from saa_core.kernels.gather import gather
from saa_core.kernels.native import native, native_refuses
from saa_core.kernels.reference import kept_weights, mix, reference
from saa_core.kernels.triton import attend_listed, engine_of, triton, triton_refuses
from saa_core.pairs import Allowed, Decision

Kernel = Callable[[Tensor, Tensor, Tensor, Decision, Allowed, float], Tensor]

KERNELS: dict[str, Kernel] = {
    "native": native,
    "triton": triton,
    "flex": flex,
    "gather": gather,
    "reference": reference,
}

__all__ = [
    "KERNELS",
    "Kernel",
    "attend_listed",
    "dense",
    "engine_of",
    "flex",
    "flex_refuses",
    "flex_unavailable",
    "gather",
    "kept_weights",
    "mix",
    "native",
    "native_refuses",
    "reference",
    "triton",
    "triton_refuses",
]
