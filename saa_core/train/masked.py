"""What run/varlen.py executes, with dropped tokens masked: saves nothing, and gradients flow through it.


Shapes: B texts, N tokens, E hidden size, H heads, D head size.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from saa_core.families.packing import Packing
from saa_core.gates.token import TokenGate

COLUMNS = 8
"""Columns put to the heads for the one that is needed: kernels like multiples of eight."""


def forward_masked(
    packing: Packing,
    special_BN: Tensor,
    ids_BN: Tensor,
    mask_BN: Tensor,
    wanted: float,
    noise: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Final states [B, N, E] and the share of the token work that was kept, differentiable.

    Dropped tokens are neither queries nor keys and keep their state. With ``wanted`` 1 none is.

    Args:
        noise: of the gates' decisions (logistic); None decides as varlen.encode does.
    """
    B, N = ids_BN.shape
    positions = torch.arange(N, device=ids_BN.device).expand(B, N)
    x_BNE = packing.embed(ids_BN.flatten(), positions.flatten()).view(B, N, -1)
    alive_BN = mask_BN.float()
    done = torch.zeros((), device=ids_BN.device)
    for layer in packing.layers:
        gate: TokenGate | None = getattr(layer.module, "saa_token_gate", None)
        if gate is not None and wanted < 1:
            alive_BN = alive_BN * _step(gate(x_BNE.float(), wanted), special_BN, noise)
        done = done + alive_BN.sum()
        heads = layer.attention.config.num_attention_heads  # type: ignore[union-attr]
        q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in layer.project(x_BNE))
        mixed = _attend(q, k, v, mask_BN, alive_BN if wanted < 1 else None)
        y_BNE = layer.finish(x_BNE, mixed.transpose(1, 2).flatten(2)).float()
        x_BNE = x_BNE.float()
        x_BNE = torch.lerp(x_BNE, y_BNE, alive_BN[..., None])
    return x_BNE, done / (mask_BN.sum() * len(packing.layers))


def _attend(
    q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, mask_BN: Tensor, alive_BN: Tensor | None
) -> Tensor:
    """Attention [B, H, N, D] over the keys that are alive; None stands for all real ones.

    Weights of the softmax over all real keys times alive, made to sum to 1 again, are one product with
    (alive * v) divided by one with alive. So alive can be a column of the values, its gradient is exact,
    and a fused kernel never writes the N x N weights. On a CPU it runs in float32: in bfloat16 its backward
    pass takes two to four times as long there.
    """
    if q_BHND.device.type == "cpu" and q_BHND.dtype != torch.float32:
        with torch.autocast("cpu", enabled=False):
            q, k, v = (x.float() for x in (q_BHND, k_BHND, v_BHND))
            return _attend(q, k, v, mask_BN, alive_BN).to(q_BHND.dtype)
    D = q_BHND.shape[-1]
    real = mask_BN[:, None, None].expand(-1, 1, mask_BN.shape[1], -1)
    if alive_BN is None:
        return scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask=real)
    alive = alive_BN[:, None, :, None].to(v_BHND.dtype).expand(*v_BHND.shape[:-1], 1)
    v = pad(torch.cat([v_BHND * alive, alive], -1), (0, COLUMNS - 1))
    q, k = pad(q_BHND, (0, COLUMNS)), pad(k_BHND, (0, COLUMNS))
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=real, scale=D**-0.5)
    return mixed[..., :D] / mixed[..., D : D + 1].clamp(min=1e-9)


def mean_states(states_BNE: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean over the real tokens of each text, float32 [B, E]."""
    weight = mask_BN[..., None].float()
    return (states_BNE.float() * weight).sum(1) / weight.sum(1)


def _step(score_BN: Tensor, special_BN: Tensor, noise: torch.Generator | None) -> Tensor:
    """1 where a token stays, 0 where it goes; the gradient is that of the sigmoid."""
    if noise is not None:
        uniform = torch.rand(score_BN.shape, generator=noise).clamp(1e-6, 1 - 1e-6)
        score_BN = score_BN + uniform.logit().to(score_BN.device)
    soft = score_BN.sigmoid()
    hard = (score_BN > 0).float()
    return torch.where(special_BN, 1.0, hard + soft - soft.detach())
