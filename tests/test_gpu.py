"""The main path on a GPU against the same on a CPU. Skipped where there is none."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.attention.fused import failed
from saa_core.errors import KernelError
from saa_core.kernels import KERNELS, flex, native_refuses
from saa_core.kernels.flex import graph_count
from saa_core.native import compile_seconds
from saa_core.run.captured import Captured
from saa_core.run.classify import classify
from saa_core.run.varlen import encode
from tests.problems import Problem, problem
from tests.triton import scene

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.model,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
KERNEL_BLOCKS = [
    *(
        ("triton", block)
        for block in ((16, 16), (32, 16), (64, 64), (128, 64), (128, 128), (256, 64))
    ),
    *(("flex", block) for block in ((16, 16), (32, 16), (64, 64), (128, 64), (128, 128))),
    ("gather", (32, 16)),
    ("reference", (32, 16)),
    ("reference", (1, 1)),
]
QUESTIONS = [
    "When was the mill built? [SEP] In 1846, by the brothers Renn.",
    "Where is the library? [SEP] In Riga",
    "How many people came? [SEP] About four thousand",
    "Who painted the ceiling of the old town hall? [SEP] Mr Renn",
]


@pytest.fixture(scope="module")
def on_gpu() -> saa.Model:
    return saa.load("smollm2", device="cuda", dtype=torch.float32)


def on_cuda(p: Problem) -> Problem:
    """The same problem on the GPU."""
    device = torch.device("cuda")
    moved = {
        field.name: value.to(device)
        for field in fields(p.decision)
        if isinstance(value := getattr(p.decision, field.name), torch.Tensor)
    }
    given = None if p.allowed.given is None else p.allowed.given.to(device)
    allowed = replace(p.allowed, device=device, given=given)
    q, k, v = (x.to(device) for x in (p.q, p.k, p.v))
    return Problem(q, k, v, allowed, replace(p.decision, **moved), p.scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "block"), KERNEL_BLOCKS)
@torch.no_grad()
def test_kernels_equal_the_reference(kernel, block, dtype):
    p = problem(700, batch=2, heads=9, key_heads=3, size=64, block=block, mask="left")
    rounded = [x.to(dtype).float() for x in (p.q, p.k, p.v)]
    expected = KERNELS["reference"](*rounded, p.decision, p.allowed, p.scale)
    here = on_cuda(p)
    q, k, v = (x.to(dtype) for x in (here.q, here.k, here.v))
    found = KERNELS[kernel](q, k, v, here.decision, here.allowed, p.scale).cpu().float()
    assert (found - expected).norm() < (1e-3 if dtype == torch.float32 else 2e-2) * expected.norm()


@torch.no_grad()
def test_flex_compiles_once_for_changing_lengths_and_masks():
    def run(length, **changes):
        p = on_cuda(problem(length, **{"heads": 6, "key_heads": 3, "size": 32} | changes))
        flex(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
        return p

    for length in (300, 420):
        run(length)
    graphs = graph_count()
    for length in (64, 100, 333, 512, 777, 1024):
        run(length, mass=0.6)
    run(150, batch=2, mask="left")
    p = run(256)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (p.q, p.k, p.v)]
    flex(*strided, p.decision, p.allowed, p.scale)  # as a model hands them over
    assert graph_count() == graphs
    assert compile_seconds


@torch.no_grad()
def test_flex_never_runs_unfused():
    """Past Dynamo's limit the engine would quietly become slower than dense; it must raise."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = 1
    try:
        shapes = [{"heads": heads, "key_heads": 2, "size": 16} for heads in (2, 4, 8, 10)]
        problems = [on_cuda(problem(128, **shape)) for shape in shapes]
        with pytest.raises(KernelError, match="unfused"):
            _ = [flex(p.q, p.k, p.v, p.decision, p.allowed, p.scale) for p in problems]
    finally:
        torch._dynamo.config.recompile_limit = limit


def test_the_native_kernel_says_that_it_runs_elsewhere():
    assert "cuda" in native_refuses(torch.zeros(1, 1, 16, 64, device="cuda"))


@pytest.mark.parametrize(
    "policy",
    [
        saa.Policy(mass=0.9),
        saa.Policy(mass=0.95, granularity="block", block=(64, 64)),
        saa.Policy(mass=0.95, granularity="block", guard=saa.Guard(0.1)),
    ],
    ids=("pairs", "blocks", "guard"),
)
def test_a_run_decides_what_it_decides_on_a_cpu(smollm2, on_gpu, novel, policy):
    text = novel[:1200]
    here, there = saa.run(on_gpu, text, policy), saa.run(smollm2, text, policy)
    assert here.execution.kernel == ("reference" if policy.granularity == "auto" else "triton")
    layers, heads = here.shape
    for layer in range(layers):
        for head in range(heads):
            one, other = (trace.keep_map(layer, head) for trace in (here, there))
            assert (one == other).mean() > 0.99
    assert np.abs(here.hidden - there.hidden).max() < 0.05 * np.abs(there.hidden).max()
    if policy.guard is not None:
        (result,) = (event for event in here.events if event["suspected"] == "result")
        assert result["bound"] <= 0.1


def test_mass_one_is_dense(on_gpu, novel):
    text = novel[:1200]
    dense, full = (saa.run(on_gpu, text, policy) for policy in (None, saa.Policy(mass=1.0)))
    assert np.abs(full.hidden - dense.hidden).max() < 1e-3 * np.abs(dense.hidden).max()


@pytest.mark.parametrize("side", ["sparse", "dense"])
def test_labels_are_those_of_a_cpu(side):
    found = []
    for device in ("cuda", "cpu"):
        model = saa.load("minilm", task="questions", side=side, device=device, dtype=torch.float32)
        tokens = 0.6 if side == "sparse" else None
        policy = saa.Policy(tokens=tokens, mass=1.0, fallback="never")
        found.append(list(classify(model, QUESTIONS, policy)))
    for here, there in zip(*found, strict=True):
        assert here.label == there.label
        assert here.probabilities == pytest.approx(there.probabilities, abs=1e-2)


def test_memory_and_time_are_those_of_the_device(on_gpu):
    policy = saa.Policy(mass=0.9, granularity="block", block=(64, 64), fallback="never")
    dense, sparse = saa.measure(on_gpu, [1024], (None, policy), repeats=2)
    for timing in (dense, sparse):
        assert timing.device.startswith("cuda")
        assert timing.peak_bytes
        assert min(timing.samples_ms) > 0
    assert sparse.kernel == "triton"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_pass_their_own_check(dtype):
    assert failed(torch.device("cuda"), dtype) == ""


@pytest.mark.parametrize("mask", [None, "left", "right"])
@torch.inference_mode()
def test_decisions_at_the_size_of_a_real_layer(mask):
    """Races and limits that the interpreter does not have: many programs, long rows, again and again."""
    shape = {"batch": 2, "heads": 9, "key_heads": 3, "size": 64, "rank": 64, "block": (64, 32)}
    one = scene.layer(torch.device("cuda"), 4000, mask=mask, tail=64, mass=0.9, **shape)
    expected = one.by_pytorch()
    before = None
    for _ in range(5):
        lists, found = one.by_triton()
        assert torch.equal(lists.keep(), found.keep)
        assert before is None or torch.equal(before, found.keep)
        before = found.keep
    differs = found.keep != expected.keep
    near = (expected.score - expected.threshold[..., None]).abs() <= 1e-5
    assert not (differs & ~near).any()


@torch.inference_mode()
def test_no_layer_waits_for_the_device(on_gpu):
    policy = saa.Policy(mass=0.9, granularity="block", block=(64, 64), fallback="never")
    ids = torch.arange(1000, device="cuda")[None] % 900 + 5
    on_gpu.hf.base_model(ids, saa=saa.Call(policy), use_cache=False)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu.hf.base_model(ids, saa=saa.Call(policy), use_cache=False)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize(
    "policy", [None, saa.Policy(mass=0.9, granularity="block", kernel="triton")]
)
def test_a_captured_prefill_is_the_plain_one(on_gpu, policy):
    graphs = Captured(on_gpu, policy)
    for length in (700, 1000, 701):
        ids = [index * 7 % 900 + 5 for index in range(length)]
        with torch.inference_mode():
            tokens = torch.tensor([ids], device="cuda")
            call = saa.Call(None if policy is None else policy.decided())
            expected = on_gpu.hf.base_model(tokens, saa=call, use_cache=False).last_hidden_state
        found = graphs(ids)
        assert (found - expected[0]).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("count", [1, 8, 256])
def test_tokens_are_dropped_as_on_a_cpu(count):
    found = []
    batch = [list(range(1000, 1000 + 5 + index % 90)) for index in range(count)]
    for device in ("cuda", "cpu"):
        given = {"task": "questions", "device": device, "dtype": torch.float32}
        model = saa.load("minilm", **given)
        found.append(encode(model, batch, saa.Policy(mass=1.0, tokens=0.6)))
    assert (found[0].needed - found[1].needed).abs().sum() <= 0.01 * found[1].needed.sum()
