"""The maps of a trace: one layer's decision as it is stored, and as it is looked at.

Shapes: H heads, M, S query and key blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saa_core.errors import TraceError

Array = NDArray[Any]
MapPart = tuple[slice, slice]
WHOLE: MapPart = (slice(None), slice(None))


@dataclass(frozen=True)
class StoredMaps:
    """One layer's maps as stored: keep bit-packed, scores as float16, thresholds as float32."""

    keep: Array
    score: Array
    threshold: Array


@dataclass(frozen=True)
class LayerMaps:
    """One layer's decision per block: keep [H, M, S], score [H, M, S], threshold [H, M]."""

    keep: Array
    score: Array
    threshold: Array


@dataclass(frozen=True)
class HeadMaps:
    """One head's decision per block: keep [M, S], score [M, S], threshold [M]."""

    keep: Array
    score: Array
    threshold: Array


class Layers(Protocol):
    """Where packed maps come from: memory or a file."""

    def read(self, layer: int) -> StoredMaps: ...


@dataclass(frozen=True)
class InMemory:
    """Maps of a trace that was just recorded."""

    packed: Mapping[int, StoredMaps]

    def read(self, layer: int) -> StoredMaps:
        return self.packed[layer]


@dataclass(frozen=True)
class OnDisk:
    """Maps of a trace file, read layer by layer."""

    file: Path

    def read(self, layer: int) -> StoredMaps:
        try:
            with safe_open(self.file, framework="np") as stored:
                return StoredMaps(
                    keep=stored.get_tensor(f"layer.{layer}.keep"),
                    score=stored.get_tensor(f"layer.{layer}.score"),
                    threshold=stored.get_tensor(f"layer.{layer}.threshold"),
                )
        except (OSError, SafetensorError) as error:
            raise TraceError(f"trace {self.file}: layer {layer} cannot be read: {error}") from error


def pack(keep: Array, score: Array, threshold: Array) -> StoredMaps:
    """Maps of one layer as they are stored."""
    return StoredMaps(
        keep=np.packbits(keep, axis=-1),
        score=score.astype(np.float16),
        threshold=threshold.astype(np.float32),
    )
