"""What an encoder asks of texts that stand behind each other without padding: attention of each to itself, and
which of their tokens stay.

Shapes: A tokens of all texts, B texts, H heads, D head size, N tokens of one text, E hidden size.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saa_core.attention.fused import failed
from saa_core.gates.token import TokenGate
from saa_core.kernels import native as native_kernel
from saa_core.kernels import native_refuses
from saa_core.pairs import Allowed, Decision
from saa_core.triton import refuses, unavailable
from saa_core.triton.packed import attend_texts
from saa_core.triton.tokens import token_scores

BLOCK = (32, 16)
"""Blocks of queries and keys of which the kernel skips those that no text spans."""
OVERTAKEN = {"AVX2": 32, "AVX512": 128}
"""Mean tokens per text from which PyTorch overtakes the C++ kernel in float32, by what a CPU can do."""


def attend(q_BHAD: Tensor, k_BHAD: Tensor, v_BHAD: Tensor, lengths: Tensor) -> Tensor:
    """Attention of each text to itself; B is 1 and A holds all texts. [1, H, A, D].

    One text goes to PyTorch. Several are one call of the C++ kernel, or of the Triton kernel on a GPU, with
    the span of each text as what its queries may see. Where neither can run they are padded to the longest
    text, and where PyTorch overtakes the C++ kernel (long texts) each is a call of its own.

    Args:
        lengths: tokens of each text, int64 [B], on the device of the queries.
    """
    if len(lengths) == 1:
        return scaled_dot_product_attention(q_BHAD, k_BHAD, v_BHAD)
    if _on_gpu(q_BHAD, q_BHAD.shape[-1]):
        ends, size = lengths.cumsum(0), q_BHAD.shape[2]
        # With the size nobody has to wait for the device to know it.
        first, last = (
            each.repeat_interleave(lengths, output_size=size).int()
            for each in (ends - lengths, ends - 1)
        )
        return attend_texts(q_BHAD[0], k_BHAD[0], v_BHAD[0], first, last)[None]
    if native_refuses(q_BHAD):
        return _attend_padded(q_BHAD, k_BHAD, v_BHAD, lengths)
    longest = OVERTAKEN.get(torch.backends.cpu.get_cpu_capability(), math.inf)
    overtaken = q_BHAD.dtype == torch.float32 and q_BHAD.shape[2] >= longest * len(lengths)
    way = _attend_each if overtaken else _attend_spans
    return way(q_BHAD, k_BHAD, v_BHAD, lengths)


def which_stay(
    gate: TokenGate, x_AE: Tensor, shift: Tensor, special_A: Tensor
) -> tuple[Tensor, Tensor]:
    """A token gate's scores, float32 [A], and which tokens stay, bool [A].

    Args:
        shift: of the gate at the share that is asked for.
        special_A: tokens that are never dropped.
    """
    if _on_gpu(x_AE):
        weights = (*gate.norm.parameters(), *gate.down.parameters(), *gate.up.parameters())
        return token_scores(x_AE, weights, shift, special_A, gate.norm.eps)
    score_A = gate.unshifted(x_AE.float()) + shift
    return score_A, (score_A > 0) | special_A


def _on_gpu(x: Tensor, head_size: int = 16) -> bool:
    """Whether the Triton kernels compute this."""
    return not (
        unavailable(x.device)
        or refuses((16, 16), head_size, head_size)
        or failed(x.device, x.dtype)
    )


def _attend_each(q_BHAD: Tensor, k_BHAD: Tensor, v_BHAD: Tensor, lengths: Tensor) -> Tensor:
    """By PyTorch, one text after the other."""
    texts = (part.split(lengths.tolist(), 2) for part in (q_BHAD, k_BHAD, v_BHAD))
    return torch.cat([scaled_dot_product_attention(*own) for own in zip(*texts, strict=True)], 2)


def _attend_spans(q_BHAD: Tensor, k_BHAD: Tensor, v_BHAD: Tensor, lengths: Tensor) -> Tensor:
    """By the C++ kernel: blocks that no text spans are skipped, and nothing is padded."""
    H, A, D = q_BHAD.shape[1:]
    ends = lengths.cumsum(0)
    first = (ends - lengths).repeat_interleave(lengths).int()
    last = (ends - 1).repeat_interleave(lengths).int()
    allowed = Allowed(A, A, False, q_BHAD.device, bounds=(first[None], last[None]))
    bq, bk = BLOCK
    lowest = first[::bq] // bk
    highest = torch.cat([last[bq - 1 :: bq], last[-1:]])[: len(lowest)] // bk
    columns = torch.arange(-(-A // bk))
    keep = (columns >= lowest[:, None]) & (columns <= highest[:, None])
    none = torch.empty(0)
    decision = Decision(BLOCK, keep.expand(1, H, *keep.shape), none, none, none, none)
    return native_kernel(q_BHAD, k_BHAD, v_BHAD, decision, allowed, D**-0.5)


def _attend_padded(q_BHAD: Tensor, k_BHAD: Tensor, v_BHAD: Tensor, lengths: Tensor) -> Tensor:
    """By PyTorch: padded to the longest text inside the attention only."""
    lengths = lengths.to(q_BHAD.device)
    place = torch.arange(int(lengths.max()), device=lengths.device)
    real_BN = place < lengths[:, None]

    def spread(part: Tensor) -> Tensor:
        wide = part.new_zeros(*real_BN.shape, part.shape[1], part.shape[3])
        wide[real_BN] = part[0].transpose(0, 1)
        return wide.transpose(1, 2)

    q, k, v = (spread(part) for part in (q_BHAD, k_BHAD, v_BHAD))
    out = scaled_dot_product_attention(q, k, v, attn_mask=real_BN[:, None, None])
    return out.transpose(1, 2)[real_BN].transpose(0, 1)[None]
