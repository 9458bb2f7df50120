"""Dense attention over every allowed pair, by PyTorch's fused SDPA."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saa_core.pairs import Allowed


def dense(q_BHQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, allowed: Allowed, scale: float) -> Tensor:
    """Softmax attention over all allowed pairs; [B, H, Q, D]."""
    causal = allowed.causal and allowed.mask is None and allowed.queries == allowed.keys
    everything = allowed.mask is None and (not allowed.causal or allowed.queries == 1)
    return scaled_dot_product_attention(
        q_BHQD,
        k_BGKD,
        v_BGKD,
        attn_mask=None if causal or everything else allowed.pairs,
        is_causal=causal and allowed.queries > 1,
        scale=scale,
        enable_gqa=q_BHQD.shape[1] != k_BGKD.shape[1],
    )
