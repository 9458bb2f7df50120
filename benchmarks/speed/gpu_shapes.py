"""What benchmarks/speed/gpu.py measures on: layers of known shapes with random weights, and decisions of a stated
density.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import saa_core as saa
from saa_core.gates.pair import GateConfig, PairGate
from saa_core.pairs import Allowed
from saa_core.run.captured import WARM_UP
from saa_core.triton.decide import Task, decide
from saa_core.triton.lists import Lists
from saa_core.triton.workspace import Workspace

TRIES = 7
"""Halvings of the range of masses until a density is met."""


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured; ``engines`` is the file of the table of engines."""

    device: torch.device
    tiny: bool
    repeats: int
    engines: Path


@dataclass(frozen=True)
class Shape:
    """One model's layers: heads, key heads, head size, hidden size, width of the feed-forward part."""

    name: str
    layers: int
    heads: int
    key_heads: int
    head_size: int
    hidden: int
    wide: int

    def config(self, length: int) -> object:
        """Of a Hugging Face model of this shape, with a small vocabulary: the head is not timed."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=1024,
            hidden_size=self.hidden,
            intermediate_size=self.wide,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            head_dim=self.head_size,
            max_position_embeddings=length,
        )


SMOLLM2 = Shape("SmolLM2-135M", 30, 9, 3, 64, 576, 1536)
LLAMA = Shape("Llama-3-8B", 32, 32, 8, 128, 4096, 14336)
QWEN = Shape("Qwen3-4B", 36, 32, 8, 128, 2560, 9728)
TINY = Shape("tiny", 1, 2, 1, 16, 32, 32)


@dataclass(frozen=True)
class Layer:
    """Random queries, keys and values of one layer, and a gate of its shape."""

    gate: PairGate
    q: Tensor
    k: Tensor
    v: Tensor
    allowed: Allowed
    block: tuple[int, int]

    @classmethod
    def random(
        cls,
        shape: Shape,
        length: int,
        block: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> "Layer":
        draw = torch.Generator().manual_seed(length)
        config = GateConfig(shape.heads, shape.key_heads, shape.head_size)
        gate = PairGate(config, draw=draw).to(device)
        q, k, v = (
            torch.randn(1, length, heads, shape.head_size, generator=draw)
            .to(device, dtype)
            .transpose(1, 2)
            for heads in (shape.heads, shape.key_heads, shape.key_heads)
        )
        return cls(gate, q, k, v, Allowed(length, length, True, device), block)

    def decide(self, mass: float, workspace: Workspace) -> Lists:
        """The lists at a mass, as a model's layer makes them."""
        length, policy = self.allowed.queries, saa.Policy()
        task = Task(
            *(length, length, True, self.block, self.gate.pooled, False),
            *(policy.sink, policy.local, 64),
        )
        gate = self.gate
        weights = (gate.query, gate.key, gate.distance, gate.first)
        return decide(self.q, self.k, weights, task, mass, workspace)[0]

    def density(self, lists: Lists) -> float:
        """Kept share of the allowed pairs, counted in blocks that the diagonal cuts by their share."""
        bq, bk = self.block
        count = self.allowed.count(self.block)
        whole = lists.full_count.double().sum() * bq * bk
        keep = lists.keep() & (count < bq * bk)
        part = (keep * count).sum(dtype=torch.float64)
        heads = lists.full_count.shape[1]
        return float((whole + part) / (count.sum(dtype=torch.float64) * heads))

    def mass_for(self, density: float) -> tuple[float, float]:
        """(mass, density it gives) nearest to a density that is asked for."""
        low, high, found = 0.0, 1.0, (1.0, 1.0)
        for _ in range(TRIES):
            mass = (low + high) / 2
            given = self.density(self.decide(mass, Workspace(self.q.device)))
            if abs(given - density) < abs(found[1] - density):
                found = mass, given
            low, high = (mass, high) if given < density else (low, mass)
        return found


def random_model(
    shape: Shape, length: int, device: torch.device, dtype: torch.dtype, block: tuple[int, int]
) -> saa.Model:
    """A whole model of a shape with random weights and fresh gates; its times mean something, its words do not."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with device:
        hf = AutoModelForCausalLM.from_config(
            shape.config(length), attn_implementation="sdpa", dtype=dtype
        ).eval()
    model = saa.attach(hf, probe=False)
    policy = saa.Policy(mass=0.9, block=block, granularity="block", fallback="never")
    return replace(model, spec=replace(model.spec, name=shape.name, policy=policy))


def milliseconds(
    sides: dict[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Raw samples by side; the sides take turns. On a GPU each side is captured in a graph first, so that no side
    waits for the host."""
    runs = {name: _captured(run) if device.type == "cuda" else run for name, run in sides.items()}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in list(runs) if turn % 2 else list(runs)[::-1]:
            found[name].append(timed(runs[name], device))
    return found


def timed(run: Callable[[], object], device: torch.device) -> float:
    """One run in ms."""
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def _captured(run: Callable[[], object]) -> Callable[[], object]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times faster: the median over neighbouring samples."""
    ratios = sorted(one / other for one, other in zip(slow, fast, strict=True))
    return ratios[len(ratios) // 2] if ratios else math.nan
