"""Parts of benchmarks/speed/gpu.py on single layers: are the kernels right, and how long do they take?"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.speed.gpu_shapes import (
    LLAMA,
    SMOLLM2,
    TINY,
    Layer,
    Setting,
    Shape,
    milliseconds,
)
from saa_core.errors import KernelError
from saa_core.files import cache_dir
from saa_core.gates.pair import grid
from saa_core.kernels import attend_listed, reference
from saa_core.kernels.engines import ENGINES, Engine, Measured, flash_unavailable, save_table
from saa_core.kernels.flex import flex_lists
from saa_core.pairs import Decision
from saa_core.rules import forced, mass
from saa_core.triton.attention import Tuning, attend_lists
from saa_core.triton.lists import Lists
from saa_core.triton.workspace import Workspace
from saa_core.types import Policy, quartiles

MASS = 0.8
CLOSE = 1e-4
"""Distance of a score from its bar, as a share of the row's mass, within which a decision is a tie."""
NEAR = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Highest relative difference of the attention, by number format."""
LENGTHS = (1024, 8192, 32768, 131072)
DENSITIES = (0.25,)
BLOCKS = ((128, 64), (128, 128))
TUNINGS = ((4, 2), (4, 3), (8, 2), (8, 3))
"""(warps, stages) of our own kernel that are tried."""


def check(setting: Setting) -> list[dict[str, Any]]:
    """Decisions and attention against PyTorch's, over shapes and number formats.

    Raises:
        KernelError: more than ties differ.
    """
    rows = []
    for shape, length, block, dtype in _checked(setting.tiny):
        one = Layer.random(shape, length, block, setting.device, dtype)
        lists = one.decide(MASS, Workspace(setting.device))
        decision = _by_pytorch(one)
        keep = lists.keep()
        differs = keep != decision.keep
        ties = (decision.score - decision.threshold[..., None]).abs() <= CLOSE
        wrong = int((differs & ~ties).sum())
        shown = Decision(block, keep, *_rest(decision))
        heads = [x.float() for x in (one.q, one.k, one.v)]
        scale = shape.head_size**-0.5
        expected = reference(*heads, shown, one.allowed, scale)
        row = {
            **_about(shape, length, block, dtype),
            "blocks": keep.numel(),
            "ties": int(differs.sum()) - wrong,
            "wrong": wrong,
            "error": {},
        }
        for name, run in _engines(one, lists, scale, setting.device).items():
            error = float((run().float() - expected).norm() / expected.norm())
            row["error"][name] = error
            if not error <= NEAR[dtype] or wrong:
                raise KernelError(f"check: {name} is wrong: {row}")
        rows.append(row)
    return rows


def layer(setting: Setting) -> list[dict[str, Any]]:
    """Times of one layer by part and engine; the fastest engines become the table of this GPU."""
    rows, table = [], []
    for shape, length, block, density in _timed(setting.tiny):
        dtype = torch.float32 if setting.tiny else torch.bfloat16
        one = Layer.random(shape, length, block, setting.device, dtype)
        wanted, given = one.mass_for(density)
        workspace = Workspace(setting.device)
        lists = one.decide(wanted, workspace)
        scale = shape.head_size**-0.5
        runs: dict[str, Callable[[], object]] = {
            "dense": partial(
                scaled_dot_product_attention,
                *(one.q, one.k, one.v),
                is_causal=True,
                scale=scale,
                enable_gqa=True,
            ),
            "gate, rule, lists": partial(one.decide, wanted, workspace),
        }
        runs |= _engines(one, lists, scale, setting.device, tunings=not setting.tiny)
        samples = milliseconds(runs, setting.device, setting.repeats)
        medians = {name: quartiles(found)[1] for name, found in samples.items()}
        best = min(
            (name for name in medians if name.split()[0] in ENGINES), key=medians.__getitem__
        )
        rows.append(
            {
                **_about(shape, length, block, dtype),
                "density": given,
                "samples_ms": samples,
                "median_ms": medians,
                "engine": best,
            }
        )
        if setting.device.type == "cuda":
            place = torch.cuda.get_device_name(setting.device)
            table.append(
                Measured(
                    *(place, shape.heads, shape.key_heads, shape.head_size),
                    *(str(dtype).removeprefix("torch."), block, length, given, _engine(best)),
                    {name: ms for name, ms in medians.items() if name.split()[0] in ENGINES},
                )
            )
    if table:
        for file in (setting.engines, cache_dir() / "engines" / f"{setting.engines.stem}.json"):
            save_table(table, file)
    return rows


def _checked(tiny: bool) -> list[tuple[Shape, int, tuple[int, int], torch.dtype]]:
    if tiny:
        return [(TINY, 70, (32, 16), torch.float32)]
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    found = [(SMOLLM2, 1000, (128, 64), dtype) for dtype in dtypes]
    found += [(SMOLLM2, 2048, block, torch.bfloat16) for block in ((32, 16), (64, 64), (128, 128))]
    return [*found, (LLAMA, 3000, (128, 64), torch.bfloat16)]


def _timed(tiny: bool) -> list[tuple[Shape, int, tuple[int, int], float]]:
    if tiny:
        return [(TINY, 70, (32, 16), 0.5)]
    return [
        (shape, length, block, density)
        for shape in (SMOLLM2, LLAMA)
        for length in LENGTHS
        for block in BLOCKS
        for density in DENSITIES
    ]


def _engines(
    one: Layer, lists: Lists, scale: float, device: torch.device, *, tunings: bool = False
) -> dict[str, Callable[[], torch.Tensor]]:
    """Every engine that serves, by name; ours also as it can be built otherwise."""
    heads = one.q, one.k, one.v
    found: dict[str, Callable[[], torch.Tensor]] = {
        "triton": partial(
            attend_listed, *heads, lists, one.allowed, scale, None, engine=Engine("triton")
        )
    }
    for warps, stages in TUNINGS if tunings else ():
        found[f"triton {warps} {stages}"] = partial(
            attend_lists, *heads, lists, scale, causal=True, tuning=Tuning(warps, stages)
        )
    if device.type == "cuda":
        found["flex"] = partial(flex_lists, *heads, lists, one.allowed, scale)
        if not flash_unavailable(device, lists.block):
            found["flash"] = partial(flex_lists, *heads, lists, one.allowed, scale, flash=True)
    return found


def _engine(name: str) -> Engine:
    """What a side's name stands for."""
    word, *built = name.split()
    return Engine(word, *map(int, built)) if built else Engine(word)


def _by_pytorch(one: Layer) -> Decision:
    """The oracle's decision, of rounded inputs in float32."""
    block, count = one.block, one.allowed.count(one.block)
    codes = forced(one.allowed, Policy(tail=64), block, count)
    with torch.inference_mode():
        geometry = grid(one.allowed, block, pooled=one.gate.pooled)
        score = one.gate(one.q.float(), one.k.float(), one.allowed, geometry)
        keep, threshold = mass(score, codes, count, MASS)
    return Decision(block, keep, score, threshold, codes, count, MASS)


def _rest(decision: Decision) -> tuple[torch.Tensor, ...]:
    return decision.score, decision.threshold, decision.forced, decision.count


def _about(
    shape: Shape, length: int, block: tuple[int, int], dtype: torch.dtype
) -> dict[str, object]:
    kind = str(dtype).removeprefix("torch.")
    return {"shape": shape.name, "length": length, "block": list(block), "dtype": kind}
