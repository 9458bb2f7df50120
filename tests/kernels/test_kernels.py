"""Kernels against the slow reference, and the reference against plain dense attention."""

import shutil

import pytest
import torch

from saa_core.errors import KernelError
from saa_core.kernels import (
    KERNELS,
    dense,
    flex,
    flex_refuses,
    gather,
    native,
    reference,
)
from saa_core.native import compile_seconds, find_compiler, unavailable
from saa_core.pairs import Allowed
from tests.problems import SHAPES, problem

pytestmark = pytest.mark.usefixtures("two_threads")
needs_native = pytest.mark.skipif(bool(unavailable("cpu")), reason=unavailable("cpu"))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-9))


def visible(allowed: Allowed, like: torch.Tensor) -> torch.Tensor:
    """Queries that may see anything at all; the others get zeros from us and anything from SDPA."""
    return allowed.pairs.any(-1)[..., None].expand_as(like)


CASES = [
    pytest.param(
        kernel, shape, id=f"{kernel}-{name}", marks=needs_native if kernel == "native" else ()
    )
    for kernel in ("reference", "gather", "native")
    for name, shape in SHAPES.items()
]


@pytest.mark.parametrize(("kernel", "shape"), [c for c in CASES if c.values[0] != "reference"])
@torch.no_grad()
def test_kernel_equals_reference(kernel, shape):
    p = problem(**shape)
    expected = reference(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    found = KERNELS[kernel](p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    assert relative(found, expected) < 1e-5
    assert found.isfinite().all()


@pytest.mark.parametrize(("kernel", "shape"), CASES)
@torch.no_grad()
def test_mass_one_equals_dense(kernel, shape):
    p = problem(**shape, mass=1.0)
    shown = visible(p.allowed, p.q)
    expected = dense(p.q, p.k, p.v, p.allowed, p.scale)
    found = KERNELS[kernel](p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    assert relative(found[shown], expected[shown]) < 1e-4
    assert not found[~shown].any()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gather_has_the_gradients_of_the_reference(shape):
    p = problem(**shape)
    found = []
    for kernel in (reference, gather):
        inputs = [x.clone().requires_grad_() for x in (p.q, p.k, p.v)]
        out = kernel(*inputs, p.decision, p.allowed, p.scale)
        out.square().sum().backward()
        found.append([x.grad for x in inputs])
    for expected, gradient in zip(*found, strict=True):
        # The floor is for gradients that are zero: a single key has a constant softmax.
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_reference_drops_what_is_not_kept():
    p = problem(96, mass=0.5)
    assert p.decision.density.max() < 1
    changed = p.v.clone()
    row = 95
    unseen = ~p.decision.pair_keep(p.allowed)[0, 0, row]
    changed[0, 0, unseen] += 100
    before = reference(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    after = reference(p.q, p.k, changed, p.decision, p.allowed, p.scale)
    assert unseen.sum() > 0
    assert torch.equal(before[0, 0, row], after[0, 0, row])
    everything = dense(p.q, p.k, changed, p.allowed, p.scale)
    assert not torch.allclose(everything[0, 0, row], before[0, 0, row])


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    find_compiler.cache_clear()
    try:
        p = problem(64)
        with torch.no_grad(), pytest.raises(KernelError, match=r"C\+\+ compiler.*gather"):
            native(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    finally:
        find_compiler.cache_clear()


@pytest.mark.parametrize(
    ("name", "word"),
    [("pair-by-pair", "granularity"), ("odd-blocks", "8 x 4"), ("mask-with-a-gap", "gaps")],
)
def test_flex_refuses_what_it_cannot_execute_in_tiles(name, word):
    p = problem(**SHAPES[name])
    assert word in flex_refuses(p.decision.block, p.allowed)
    whole = problem(64)
    assert not flex_refuses(whole.decision.block, whole.allowed)


def test_flex_says_on_a_cpu_that_it_needs_a_gpu():
    p = problem(64)
    with pytest.raises(KernelError, match=r"CUDA GPU, and the model is on cpu, .*gather"):
        flex(p.q, p.k, p.v, p.decision, p.allowed, p.scale)


@needs_native
def test_no_gradients_from_what_has_none():
    p = problem(64)
    with pytest.raises(KernelError, match="no gradients"):
        native(p.q.requires_grad_(), p.k, p.v, p.decision, p.allowed, p.scale)


@needs_native
@pytest.mark.parametrize("block", [(32, 16), (64, 64), (16, 48), (100, 32), (1, 1), (8, 4)])
@pytest.mark.parametrize("size", [16, 48, 64, 128])
@torch.no_grad()
def test_native_over_blocks_and_head_sizes(block, size):
    """More panels than one softmax step holds, scores far apart, and strides as models have them."""
    p = problem(700, heads=6, key_heads=2, size=size, block=block)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (10 * p.q, p.k, p.v))
    expected = reference(q, k, v, p.decision, p.allowed, p.scale)
    assert relative(native(q, k, v, p.decision, p.allowed, p.scale), expected) < 1e-5


@needs_native
@torch.no_grad()
def test_native_reads_only_what_is_kept():
    """Values of dropped blocks may be anything: they are not multiplied by zero, but not read."""
    p = problem(32, 512, mass=0.5)
    seen = p.decision.pair_keep(p.allowed).any(2).unflatten(1, (2, 2)).any(2)
    assert not seen.all()
    spoiled = p.v.masked_fill(~seen[..., None], torch.nan)
    found = native(p.q, p.k, spoiled, p.decision, p.allowed, p.scale)
    assert torch.equal(found, native(p.q, p.k, p.v, p.decision, p.allowed, p.scale))


@needs_native
@torch.no_grad()
def test_native_says_which_heads_it_refuses():
    p = problem(64, size=24)
    with pytest.raises(KernelError, match=r"head size is 24.*gather"):
        native(p.q, p.k, p.v, p.decision, p.allowed, p.scale)


@needs_native
@torch.no_grad()
def test_varied_lengths_and_masks_compile_nothing_after_the_first_runs():
    shape = {"heads": 9, "key_heads": 3, "size": 64}
    unpadded, padded = problem(640, **shape), problem(640, batch=2, mask="left", **shape)
    for p in (unpadded, padded):
        native(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    compiled = len(compile_seconds)
    for length, mass in ((600, 0.4), (768, 0.8), (1000, 0.6), (1024, 0.3)):
        for batch, mask in ((1, None), (2, "left"), (3, "right")):
            p = problem(length, batch=batch, mask=mask, mass=mass, **shape)
            native(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    assert len(compile_seconds) == compiled
