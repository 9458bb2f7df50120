"""C++ for the CPU: the block-sparse kernel, the gate's scores and the top-p rule.

Compiled once per machine by its own g++ or clang++, in about two seconds, and kept in the cache
directory. Where there is no compiler everything still runs, by PyTorch, only slower. What the
functions compute is documented where they are called.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from importlib.resources import as_file, files

import torch
from torch import Tensor

from saa_core.errors import KernelError
from saa_core.files import cache_dir, replacing

SOURCES = ("attention.cpp", "scoring.cpp", "vectors.h")
VECTOR_FLAGS = {
    "AVX512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512",
    "AVX2": "-mavx2 -mfma",
}
"""By PyTorch's CPU capability; other CPUs get the compiler's baseline (NEON on ARM)."""

compile_seconds: list[float] = []
"""Wall time of each compilation in this process, in order, whichever kernel asked for it."""


@functools.cache
def find_compiler() -> str | None:
    """Path of the C++ compiler: the one named by ``CXX``, or g++ or clang++."""
    named = os.environ.get("CXX")
    found = (shutil.which(name) for name in ([named] if named else ["g++", "clang++"]))
    return next((path for path in found if path), None)


def unavailable(device: str) -> str:
    """Reason it cannot run on this device, or ''."""
    if device != "cpu":
        return f"it is made for a CPU, and the model is on {device}"
    if find_compiler() is None:
        return "no C++ compiler was found (g++ or clang++, or the one named by CXX)"
    built = _build()
    return built if isinstance(built, str) else ""


def serves(*tensors: Tensor) -> bool:
    """True if C++ may compute with these in place of PyTorch: on a CPU, no gradients."""
    training = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not training and not any(unavailable(x.device.type) for x in tensors)


def rows(x: Tensor) -> Tensor:
    """float32 with the features of one position side by side; a copy only where needed."""
    x = x.detach().float()
    return x if x.stride(-1) == 1 else x.contiguous()


def call(function: str, problem: ctypes.Structure) -> None:
    """Calls a C++ function by name, with PyTorch's number of threads."""
    built = _build()
    if isinstance(built, str):
        raise KernelError(f"kernel='native' cannot run: {built}; use kernel='gather'")
    getattr(built, function)(ctypes.byref(problem), torch.get_num_threads())


def structure(name: str, *fields: tuple[Iterable[str], type]) -> type[ctypes.Structure]:
    """A C struct: names and their type, in the order of the C++ source."""
    flat = [(field, kind) for names, kind in fields for field in names]
    return type(name, (ctypes.Structure,), {"_fields_": flat})


def flags_for(compiler: str, capability: str) -> list[str]:
    """What the compiler is told, whichever files it is given.

    Args:
        compiler: its path.
        capability: of the CPU, in PyTorch's words.
    """
    flags = ["-std=c++17", "-O3", "-shared", "-fPIC", "-fno-math-errno", "-Wno-psabi", "-pthread"]
    flags += VECTOR_FLAGS.get(capability, "").split()
    if not _is_clang(compiler):
        # g++'s OpenMP is the one that PyTorch brings, so both share one pool of threads. clang's
        # would be a second pool, and Apple's has none, so there the functions start plain threads.
        flags.append("-fopenmp")
    return flags


def _is_clang(compiler: str) -> bool:
    """Asked of the compiler itself: what macOS calls g++ is clang."""
    try:
        asked = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return "clang" in os.path.basename(compiler)
    return "clang" in asked.stdout.lower()


@functools.cache
def _build() -> ctypes.CDLL | str:
    """The compiled library, or the reason there is none; computed once per process."""
    compiler = find_compiler()
    assert compiler is not None
    flags = flags_for(compiler, torch.backends.cpu.get_cpu_capability())
    here = files("saa_core.native")
    text = "".join((here / name).read_text("utf-8") for name in SOURCES)
    key = hashlib.sha256(f"{text} {compiler} {flags}".encode()).hexdigest()[:16]
    file = cache_dir() / "native" / f"{platform.machine()}-{key}.so"
    try:
        if not file.exists():
            started = time.perf_counter()
            with replacing(file) as part, as_file(here) as folder:
                sources = [str(folder / name) for name in SOURCES if name.endswith(".cpp")]
                subprocess.run(
                    [compiler, *flags, *sources, "-o", str(part)],
                    capture_output=True,
                    check=True,
                    text=True,
                    errors="replace",
                )
            compile_seconds.append(time.perf_counter() - started)
        return ctypes.CDLL(str(file))
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or "no message").splitlines()[0]
        return f"{compiler} failed: {said}"
    except OSError as error:
        return f"what {compiler} made could not be written or loaded: {error}"
