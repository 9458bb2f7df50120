"""How fast the machine is at its best: bytes read and multiply-adds done, beside what a batch of texts needs.

No engine can answer before it has read the weights once and done the operations of its precision; how close one comes
is what :mod:`benchmarks.publish.tables_peers` prints.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from saa_core.export.engine import Engine, needed_tokens, operations

SIZE = 1024
"""Rows and columns of the matrices whose product is timed."""
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of one weight."""


def best_of(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several runs; the first warms up and does not count."""
    run()
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        spent.append(time.perf_counter() - began)
    return min(spent)


def measure_machine(megabytes: int = 1024, repeats: int = 10) -> dict[str, Any]:
    """GB/s read, and billions of operations per second of a product of matrices in each precision."""
    table = torch.ones(megabytes * 2**18)
    bandwidth = 4e-9 * table.numel() / best_of(table.sum, repeats)
    del table
    drawn = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, SIZE, SIZE, generator=drawn)
    small = [(100 * each).to(torch.int8) for each in (one, other)]
    half = [each.bfloat16() for each in (one, other)]
    products: dict[str, Callable[[], object]] = {
        "float32": lambda: one @ other,
        "bfloat16": lambda: half[0] @ half[1],
        "int8": lambda: torch._int_mm(*small),
    }
    rates = {name: 2e-9 * SIZE**3 / best_of(run, repeats) for name, run in products.items()}
    return {
        "bandwidth_gb_s": round(bandwidth, 2),
        "gops": {name: round(rate, 1) for name, rate in rates.items()},
    }


def needs(engine: Engine, batches: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Weights of the layers, and operations of a batch on average, densely and with the gates."""
    about, dense, sparse = engine.about, 0, 0
    for texts in batches:
        ids = engine.encode(texts, cut=True)
        layers = len(about.weights)
        needed = needed_tokens(engine.answer(ids, about.share, 0.0).layers, layers)
        full = np.repeat(needed[:, :1], layers, 1)
        dense += int(operations(about, full, gates=False).sum())
        sparse += int(operations(about, needed, gates=True).sum())
    count = len(batches)
    return {"weights": sum(about.weights), "dense": dense // count, "SAA": sparse // count}


def least_ms(machine: dict[str, Any], need: dict[str, Any], side: str, precision: str) -> float:
    """ms that the machine needs at least for a batch: reading weights, or computing.

    Args:
        side: "dense" or "SAA".
        precision: a key of BYTES.
    """
    reading = 1e-6 * BYTES[precision] * need["weights"] / machine["bandwidth_gb_s"]
    computing = 1e-6 * need[side] / machine["gops"][precision]
    return max(reading, computing)
