"""Which engine computes attention over lists on a GPU: a measured table, and what is taken without one.

    triton   our own kernel (saa_core/triton/attend_blocks.py)
    flex     PyTorch's FlexAttention, compiled, fed with our lists
    flash    FlashAttention 4 behind FlexAttention, where flash-attn-4 is installed and serves

``python -m benchmarks.speed.gpu`` measures all that serve and writes the table of its GPU into the cache
folder; tables that ship lie in assets/engines. A table is read once per process.
"""

import functools
import importlib.util
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saa_core.data import fetch
from saa_core.errors import SAAError
from saa_core.files import cache_dir, read_known, write_json

ENGINES = ("triton", "flex", "flash")
FORMAT = 1
FLASH_SIDE = 128
"""Both sides of a block have to be multiples of this for FlashAttention 4."""
FLASH_CAPABILITIES = (9, 10)
"""Major compute capabilities on which it follows the lists; on 8 it ignores them and computes densely."""


@dataclass(frozen=True)
class Engine:
    """One way to compute, with how our own kernel is built: None is as built in."""

    name: str
    warps: int | None = None
    stages: int = 2


@dataclass(frozen=True)
class Measured:
    """One shape on one GPU: milliseconds of one layer's attention by engine, median of ``repeats``.

    Args:
        gpu: its name.
        heads, key_heads, head_size, dtype: of the layer.
        block: (queries, keys).
        length: tokens.
        density: of the lists that were timed.
        engine: the fastest.
        ms: by engine; of our own kernel the fastest build.
    """

    gpu: str
    heads: int
    key_heads: int
    head_size: int
    dtype: str
    block: tuple[int, int]
    length: int
    density: float
    engine: Engine
    ms: dict[str, float]


def flash_unavailable(device: torch.device, block: tuple[int, int]) -> str:
    """Reason FlashAttention 4 does not serve here, or ''."""
    if device.type != "cuda":
        return f"it is made for a CUDA GPU, and the model is on {device.type}"
    try:
        found = importlib.util.find_spec("flash_attn.cute")
    except ModuleNotFoundError:
        found = None
    if found is None:
        return "the package flash-attn-4 is not installed"
    if torch.cuda.get_device_capability(device)[0] not in FLASH_CAPABILITIES:
        return f"{torch.cuda.get_device_name(device)} would ignore the lists and compute densely"
    if any(side % FLASH_SIDE for side in block):
        return f"its blocks have sides of multiples of {FLASH_SIDE}, and these are {block[0]} x {block[1]}"
    return ""


def engine_for(q_BHQD: Tensor, key_heads: int, block: tuple[int, int]) -> Engine:
    """The fastest engine for such a layer as it was measured on this GPU; without a table FlexAttention, which
    was checked on a GPU, and our own where its kernels are too new for the table.
    """
    _, heads, length, head_size = q_BHQD.shape
    found = chosen(
        known(),
        torch.cuda.get_device_name(q_BHQD.device),
        (heads, key_heads, head_size),
        str(q_BHQD.dtype).removeprefix("torch."),
        block,
        length,
    )
    if found.name == "flash" and flash_unavailable(q_BHQD.device, block):
        return Engine("flex")
    return found


def chosen(
    table: Iterable[Measured],
    gpu: str,
    shape: tuple[int, int, int],
    dtype: str,
    block: tuple[int, int],
    length: int,
) -> Engine:
    """The table's word for a layer: of this GPU, number format, head size and block; of them those with the same
    number of heads, if there are any, and the nearest length."""
    near = [
        each
        for each in table
        if (each.gpu, each.head_size, each.dtype, each.block) == (gpu, shape[2], dtype, block)
    ]
    near = [each for each in near if (each.heads, each.key_heads) == shape[:2]] or near
    if not near:
        return Engine("flex")
    return min(near, key=lambda each: abs(math.log(each.length / length))).engine


def folders() -> tuple[Path, ...]:
    """Where tables lie: one's own, and those that ship."""
    return cache_dir() / "engines", fetch.assets() / "engines"


@functools.cache
def known() -> tuple[Measured, ...]:
    """Every table that can be read; attention can do without one."""
    return tuple(read_known(folders(), read_table))


def read_table(file: Path) -> list[Measured]:
    """The table of one GPU.

    Raises:
        SAAError: naming the file; it cannot be read, or is of another format.
    """
    try:
        about: Any = json.loads(file.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r}; this version reads {FORMAT}")
        rows = [
            Measured(**{**row, "engine": Engine(**row["engine"]), "block": tuple(row["block"])})
            for row in about["measured"]
        ]
        for row in rows:
            if row.engine.name not in ENGINES:
                raise ValueError(f"engine={row.engine.name!r}; choose one of: {', '.join(ENGINES)}")
        return rows
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SAAError(f"engines={str(file)!r} is no valid table: {error}") from error


def save_table(rows: Sequence[Measured], file: Path) -> None:
    """Writes the table of one GPU."""
    write_json(file, {"format": FORMAT, "measured": [asdict(row) for row in rows]})
    known.cache_clear()
