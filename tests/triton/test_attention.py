"""Attention over lists and over packed texts, and the token gate, against PyTorch's."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from saa_core.errors import KernelError
from saa_core.gates.token import TokenGate, TokenGateConfig
from saa_core.kernels import reference, triton
from saa_core.triton.attention import attend_lists
from saa_core.triton.packed import attend_texts
from saa_core.triton.tokens import token_scores
from tests.problems import problem
from tests.triton.scene import layer

SHAPES = {
    "ragged-end": {"queries": 101, "heads": 4, "key_heads": 2},
    "one-token": {"queries": 1},
    "padded-left": {"queries": 70, "batch": 2, "mask": "left"},
    "padded-right": {"queries": 70, "batch": 2, "mask": "right"},
    "both-directions": {"queries": 100, "causal": False},
    "last-queries-of-a-cache": {"queries": 20, "keys": 150},
    "blocks-in-parts": {"queries": 150, "block": (128, 64), "size": 64},
    "heads-of-80": {"queries": 64, "size": 80},
    "heads-of-128": {"queries": 64, "size": 128, "block": (32, 32)},
}
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_attention_over_lists_equals_the_reference(triton_device, shape):
    one = layer(triton_device, **shape)
    decision = one.by_pytorch()
    expected = reference(one.q, one.k, one.v, decision, one.allowed, one.scale)
    found = triton(one.q, one.k, one.v, decision, one.allowed, one.scale)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(triton_device, dtype):
    one = layer(triton_device, 90, dtype=dtype)
    decision = one.by_pytorch()
    heads = [x.float() for x in (one.q, one.k, one.v)]
    expected = reference(*heads, decision, one.allowed, one.scale)
    found = triton(one.q, one.k, one.v, decision, one.allowed, one.scale)
    assert found.dtype == dtype
    assert (found.float() - expected).norm() <= CLOSE[dtype] * expected.norm()


@torch.no_grad()
def test_values_that_are_not_kept_are_never_read(triton_device):
    one = layer(triton_device, 96, block=(32, 32), local=1, sink=0, mass=0.3, heads=1)
    lists, found = one.by_triton()
    unseen = ~found.keep[0, 0].any(0).repeat_interleave(32)
    assert unseen.any() or found.keep.float().mean() < 1
    spoiled = one.v.clone()
    spoiled[:, :, unseen] = torch.nan
    outputs = [
        attend_lists(one.q, one.k, v, lists, one.scale, causal=True) for v in (one.v, spoiled)
    ]
    assert torch.equal(*outputs)


def test_strides_as_models_have_them(triton_device):
    one = layer(triton_device, 70)
    with torch.no_grad():
        decision = one.by_pytorch()
        strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (one.q, one.k, one.v)]
        expected = triton(one.q, one.k, one.v, decision, one.allowed, one.scale)
        assert torch.equal(triton(*strided, decision, one.allowed, one.scale), expected)


def test_says_in_words_what_it_does_not_compute(triton_device):
    cases = {
        "granularity": problem(45, block=(1, 1)),
        "8 x 4": problem(70, block=(8, 4)),
        "gaps": problem(66, batch=2, mask="gap"),
        "head size is 24": problem(64, size=24),
    }
    for words, p in cases.items():
        with pytest.raises(KernelError, match=rf"{words}.*gather"):
            triton(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    p = problem(64)
    with pytest.raises(KernelError, match="no gradients"):
        triton(p.q.requires_grad_(), p.k, p.v, p.decision, p.allowed, p.scale)


def test_says_on_a_cpu_that_it_needs_a_gpu():
    p = problem(64)
    with pytest.raises(KernelError, match=r"CUDA GPU, and the model is on cpu.*gather"):
        triton(p.q, p.k, p.v, p.decision, p.allowed, p.scale)


@pytest.mark.parametrize("lengths", [(5, 70, 1, 30), (100,), (64, 64)])
@torch.no_grad()
def test_packed_texts_attend_to_themselves(triton_device, lengths):
    q, k, v = (torch.randn(3, sum(lengths), 32, device=triton_device) for _ in range(3))
    size = torch.tensor(lengths, device=triton_device)
    ends = size.cumsum(0)
    first, last = (
        x.repeat_interleave(size).to(triton_device, torch.int32) for x in (ends - size, ends - 1)
    )
    found = attend_texts(q, k, v, first, last)
    each = [
        scaled_dot_product_attention(*own)
        for own in zip(*(x.split(list(lengths), 1) for x in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(each, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_token_gate_in_one_launch(triton_device, dtype):
    gate = TokenGate(TokenGateConfig(96, width=24)).to(triton_device)
    gate.norm.weight.normal_()
    gate.norm.bias.normal_()
    x = (3 + torch.randn(41, 96, device=triton_device)).to(dtype)
    special = torch.arange(41, device=triton_device) % 10 == 0
    weights = (*gate.norm.parameters(), *gate.down.parameters(), *gate.up.parameters())
    expected = gate.unshifted(x.float())
    shift = -expected.median()
    found = token_scores(x, weights, shift, special, gate.norm.eps)
    expected = expected + shift
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(found[1], (found[0] > 0) | special)
    assert 0 < found[1].sum() < 41
