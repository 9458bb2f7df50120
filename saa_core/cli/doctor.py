"""What works on this machine: versions, device, compiler, kernels, models and gates present.

Every line is found out by trying, not by guessing; nothing is downloaded.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from saa_core import native, rules, triton
from saa_core.attention.fused import failed as triton_failed
from saa_core.attention.profiles import known, same_machine, this_machine
from saa_core.data import fetch
from saa_core.errors import SAAError
from saa_core.files import cache_dir, store_dir
from saa_core.gates.files import read_gates
from saa_core.kernels import KERNELS, dense, flex_unavailable
from saa_core.loading import bfloat16_is_fast, pick_device
from saa_core.native import find_compiler
from saa_core.pairs import Allowed, Decision
from saa_core.trace.record import versions
from saa_core.types import Policy


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``ok`` is False where something does not work or is missing."""

    topic: str
    name: str
    value: str
    ok: bool = True


def examine(device: str = "auto") -> Iterator[Finding]:
    """Looks at versions, device, kernels, models, texts and gates, one finding at a time."""
    for name, value in versions().items():
        yield Finding("versions", name, value)
    target = pick_device(device)
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else str(target)
    yield Finding("device", "device", name)
    yield Finding("device", "threads", str(torch.get_num_threads()))
    fast = bfloat16_is_fast(target)
    yield Finding("device", "bfloat16", "fast" if fast else "slow here; use float32", fast)
    compiler = find_compiler()
    yield Finding("device", "C++ compiler", compiler or "none found", compiler is not None)
    yield Finding("folders", "cache (SAA_CACHE)", str(cache_dir()))
    yield Finding("folders", "traces (SAA_STORE)", str(store_dir()))
    own = this_machine(target, torch.get_num_threads())
    for profile in known():
        where = "this machine" if same_machine(profile.machine, own) else profile.machine.cpu
        where = where if profile.machine.device == "cpu" else profile.machine.device
        yield Finding("profiles", f"{profile.model}, {profile.dtype}", f"measured on {where}")
    for kernel in KERNELS:
        problem = try_kernel(kernel, target)
        yield Finding("kernels", kernel, problem or "works", not problem)
    for alias in fetch.models():
        here = fetch.present(fetch.model_dir(alias))
        hint = "present" if here else f"missing; saa fetch {alias}"
        yield Finding("models", alias, hint, here)
    for source, entry in fetch.datasets().items():
        here = fetch.present(fetch.data_dir(source))
        hint = "present" if here else f"missing; saa fetch --data {source}"
        yield Finding("texts", source, f"{entry.kind or entry.use}: {hint}", here)
    for folder in sorted((fetch.assets() / "gates").glob("*/gates.json")):
        try:
            stored = read_gates(folder.parent)
            yield Finding("gates", stored.id, f"for {stored.about['model']}", stored.trained)
        except SAAError as error:
            yield Finding("gates", folder.parent.name, str(error), False)


@functools.cache
def try_kernel(kernel: str, device: torch.device) -> str:
    """Runs a kernel on a small input and compares it with dense; empty, or what went wrong."""
    if kernel == "triton" and (reason := triton.unavailable(device) or triton_failed(device)):
        return reason
    unavailable = {"flex": flex_unavailable, "native": native.unavailable}.get(kernel)
    if unavailable is not None and (reason := unavailable(device.type)):
        return reason
    q, k, v = (torch.randn(1, heads, 128, 64).to(device) for heads in (2, 1, 1))
    allowed = Allowed(128, 128, True, device)
    block = (32, 16)
    count = allowed.count(block)
    score = (count > 0).float().expand(1, 2, -1, -1)
    forced = rules.forced(allowed, Policy(tail=0), block, count)
    keep, threshold = rules.mass(score, forced, count, 1.0)
    decision = Decision(block, keep, score, threshold, forced, count)
    with torch.inference_mode():
        try:
            out = KERNELS[kernel](q, k, v, decision, allowed, 0.125)
        except SAAError as error:
            return str(error)
        error_size = float((out - dense(q, k, v, allowed, 0.125)).abs().max())
    return "" if error_size < 1e-3 else f"differs from dense by {error_size:.2g}"
