"""The C++ of saa_core/native against PyTorch, on lesser processors and with broken compilers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import saa_core as saa
from saa_core import native as library
from saa_core import rules
from saa_core.attention import choose_kernel
from saa_core.errors import KernelError
from saa_core.files import cache_dir
from saa_core.gates.pair import GateConfig, PairGate, grid
from saa_core.kernels import native, reference
from saa_core.native import find_compiler, flags_for, unavailable
from saa_core.pairs import Allowed
from tests.problems import mask_of, problem

pytestmark = pytest.mark.usefixtures("two_threads")
needs_native = pytest.mark.skipif(bool(unavailable("cpu")), reason=unavailable("cpu"))
TEXTS = {
    "causal": {"queries": 333},
    "one-token": {"queries": 1},
    "a-few": {"queries": 7},
    "both-directions": {"queries": 200, "causal": False},
    "last-queries-of-a-cache": {"queries": 20, "keys": 150},
    "padded-left": {"queries": 90, "kind": "left"},
    "padded-right": {"queries": 90, "kind": "right"},
    "mask-with-a-gap": {"queries": 66, "kind": "gap", "causal": False},
}


def trained_like(heads: int, key_heads: int, size: int, rank: int, pooled: int = 16) -> PairGate:
    gate = PairGate(GateConfig(heads, key_heads, size, rank, pooled=pooled))
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.normal_()
    return gate


@needs_native
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("block", [(32, 16), (1, 1), (64, 64), (8, 4), (100, 20), (512, 128)])
@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "rank", "pooled"), [(9, 3, 64, 64, 16), (4, 4, 16, 32, 4)]
)
@torch.no_grad()
def test_scores_and_rule_equal_pytorchs(
    text, block, heads, key_heads, size, rank, pooled, monkeypatch
):
    queries, keys = text["queries"], text.get("keys", text["queries"])
    causal = text.get("causal", True)
    mask = mask_of(text.get("kind"), 2, queries, keys, causal)
    allowed = Allowed(queries, keys, causal, torch.device("cpu"), mask)
    gate = trained_like(heads, key_heads, size, rank, pooled)
    q = torch.randn(2, queries, heads, size).transpose(1, 2)
    k = torch.randn(2, keys, key_heads, size).transpose(1, 2)
    count = allowed.count(block)
    forced = rules.forced(allowed, saa.Policy(tail=0), block, count)
    rows = grid(allowed, block, pooled=pooled)
    found = gate(q, k, allowed, rows)
    keep, threshold = rules.mass(found, forced, count, 0.9)
    monkeypatch.setattr(library, "serves", lambda *tensors: False)
    expected = gate(q, k, allowed, rows)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # From the same scores, so that a last digit of the gate cannot decide.
    keep_torch, threshold_torch = rules.mass(found, forced, count, 0.9)
    held = (found * keep).sum(-1)
    assert (held >= 0.9 * found.sum(-1) - 1e-5)[count.expand_as(found).sum(-1) > 0].all()
    assert (keep != keep_torch).float().mean() < 1e-3
    usual = (keep == keep_torch).all(-1)
    torch.testing.assert_close(threshold[usual], threshold_torch[usual])


@pytest.fixture
def build_with(monkeypatch, tmp_path) -> Iterator[Callable[..., None]]:
    """Makes the next call compile anew into an empty cache, with this compiler and processor."""
    monkeypatch.setenv("SAA_CACHE", str(tmp_path / "cache"))

    def choose(compiler: str | None, capability: str | None = None) -> None:
        monkeypatch.setattr(library, "find_compiler", lambda: compiler)
        if capability is not None:
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        library._build.cache_clear()

    yield choose
    library._build.cache_clear()


def script(file: Path, line: str) -> str:
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)
    return str(file)


@needs_native
@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "capability"),
    [
        ("g++", "AVX2"),
        ("clang++", "DEFAULT"),
        pytest.param("g++", "DEFAULT", marks=pytest.mark.long),
        pytest.param("clang++", "AVX2", marks=pytest.mark.long),
    ],
)
@torch.no_grad()
def test_lesser_processors_and_plain_threads(
    compiler, capability, build_with, tmp_path, monkeypatch
):
    """Without AVX-512, without AVX2, and (under clang's name) with threads instead of OpenMP."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT" and capability == "AVX2":
        pytest.skip("this processor has no AVX2")
    line = f'[ "$1" = --version ] && echo {compiler} || exec {find_compiler()} "$@"'
    build_with(script(tmp_path / compiler, line), capability)
    for block, size in (((32, 16), 64), ((1, 1), 16), ((100, 32), 48)):
        p = problem(300, heads=9, key_heads=3, size=size, block=block)
        expected = reference(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
        found = native(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
        assert (found - expected).norm() / expected.norm() < 1e-5
        gate, count = trained_like(9, 3, size, 64), p.allowed.count(block)
        forced = rules.forced(p.allowed, saa.Policy(tail=0), block, count)
        score = gate(p.q, p.k, p.allowed, grid(p.allowed, block))
        keep, _ = rules.mass(score, forced, count, 0.9)
        with monkeypatch.context() as without:
            without.setattr(library, "serves", lambda *tensors: False)
            plain = gate(p.q, p.k, p.allowed, grid(p.allowed, block))
            torch.testing.assert_close(score, plain, rtol=1e-4, atol=1e-4)
            keep_torch, _ = rules.mass(score, forced, count, 0.9)
        assert (keep != keep_torch).float().mean() < 1e-3
    assert len(list((cache_dir() / "native").glob("*.so"))) == 1


@pytest.mark.parametrize(
    ("name", "told", "threads"),
    [
        ("g++", "Apple clang version 15.0.0 (clang-1500.3.9.4)", "-pthread"),
        ("clang++", "clang version 18.1.3", "-pthread"),
        ("c++", "Ubuntu clang version 18.1.3", "-pthread"),
        ("g++", "g++ (Debian 12.2.0-14) 12.2.0", "-fopenmp"),
        ("g++-13", "g++-13 (Homebrew GCC 13.2.0) 13.2.0", "-fopenmp"),
    ],
)
def test_only_a_compiler_that_has_openmp_is_asked_for_it(name, told, threads, tmp_path):
    """What macOS calls g++ is clang, and stops at -fopenmp."""
    folder = tmp_path / "clang-tools"  # a path says nothing of what is there
    folder.mkdir()
    compiler = script(folder / name, f"echo '{told}'")
    flags = flags_for(str(compiler), "DEFAULT")
    assert threads in flags
    assert ("-fopenmp" in flags) == (threads == "-fopenmp")


@pytest.mark.parametrize("line", ["echo 'cannot find cc1plus' >&2; exit 1", "exit 0"])
@torch.no_grad()
def test_a_broken_compiler_is_named_and_worked_around(line, build_with, tmp_path):
    build_with(script(tmp_path / "g++", line))
    p = problem(64)
    with pytest.raises(KernelError, match=r"g\+\+.*gather"):
        native(p.q, p.k, p.v, p.decision, p.allowed, p.scale)
    if "cc1plus" in line:
        assert "cannot find cc1plus" in unavailable("cpu")
        assert list((cache_dir() / "native").iterdir()) == []
    gate = trained_like(4, 2, 16, 16)
    score = gate(p.q, p.k, p.allowed, grid(p.allowed, (32, 16)))
    assert score.isfinite().all()
    chosen, why = choose_kernel(saa.Policy(), (32, 16), p.allowed, p.q)
    assert chosen == "gather"
    assert "g++" in why
