"""The main path on a GPU against the same on a CPU. Skipped where there is none."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.kernels import KERNELS, native_refuses
from saa_core.pairs import Allowed
from saa_core.run.classify import classify
from tests.problems import problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.model,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
KERNEL_BLOCKS = [
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "block"), KERNEL_BLOCKS)
@torch.no_grad()
def test_kernels_equal_the_reference(kernel, block, dtype):
    p = problem(700, batch=2, heads=9, key_heads=3, size=64, block=block, mask="left")
    rounded = [x.to(dtype).float() for x in (p.q, p.k, p.v)]
    expected = KERNELS["reference"](*rounded, p.decision, p.allowed, p.scale)
    device = torch.device("cuda")
    moved = {
        field.name: value.to(device)
        for field in fields(p.decision)
        if isinstance(value := getattr(p.decision, field.name), torch.Tensor)
    }
    assert p.allowed.mask is not None
    allowed = Allowed(700, 700, True, device, p.allowed.mask.to(device))
    q, k, v = (x.to(device, dtype) for x in (p.q, p.k, p.v))
    found = KERNELS[kernel](q, k, v, replace(p.decision, **moved), allowed, p.scale).cpu().float()
    assert (found - expected).norm() < (1e-3 if dtype == torch.float32 else 2e-2) * expected.norm()


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
    assert here.execution.kernel == ("reference" if policy.granularity == "auto" else "flex")
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
        policy = saa.Policy(tokens=0.6 if side == "sparse" else None, mass=1.0)
        found.append(list(classify(model, QUESTIONS, policy)))
    for here, there in zip(*found, strict=True):
        assert here.label == there.label
        assert here.probabilities == pytest.approx(there.probabilities, abs=1e-2)


def test_memory_and_time_are_those_of_the_device(on_gpu):
    policy = saa.Policy(mass=0.9, granularity="block", block=(64, 64))
    dense, sparse = saa.measure(on_gpu, [1024], (None, policy), repeats=2)
    for timing in (dense, sparse):
        assert timing.device.startswith("cuda")
        assert timing.peak_bytes
        assert min(timing.samples_ms) > 0
    assert sparse.kernel == "flex"
