"""Runs a decision by its kernel, with gradients where they are needed."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saa_core.attention.plan import Plan, needs_gradients
from saa_core.kernels import (
    KERNELS,
    native_refuses,
)
from saa_core.pairs import Allowed, Decision


def execute_decision(
    plan: Plan, q_BHQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, decision: Decision, scale: float
) -> Tensor:
    """Runs the plan's kernel; where gradients are needed and none was asked for by name, by the
    fastest kernel forwards."""
    inputs = (q_BHQD, k_BGKD, v_BGKD, decision, plan.allowed, scale)
    by_name = plan.policy is not None and plan.policy.kernel != "auto"
    if needs_gradients(q_BHQD, k_BGKD, v_BGKD) and not by_name:
        out: Tensor = _Recomputed.apply(plan.kernel, *inputs)  # type: ignore[no-untyped-call]
        return out
    return KERNELS[plan.kernel](*inputs)


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


def fast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """float32 on a CPU, where attention in half precision is slower."""
    if tensors[0].device.type == "cpu":
        return tuple(tensor.float() for tensor in tensors)
    return tensors
