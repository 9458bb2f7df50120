"""Everything that is known only on a GPU, in one command: build, check, time, compare.

    python -m benchmarks.speed.gpu          # writes benchmarks/results/gpu_kernels.json, part by part

Parts (``--parts``), each written when it is done and not done again unless its name is given with ``--again``:

    check          the kernels against PyTorch over shapes; a difference ends the run
    layer          one layer: gate, rule and lists, and attention by every engine that serves, dense beside them;
                   writes the table of engines (saa_core/kernels/engines.py)
    prefill        SmolLM2's shape, whole prefill, both sides captured, at a stated density
    default        the real SmolLM2 under its default, with and without fallback, where it was fetched
    shapes         Llama-3-8B's and Qwen3-4B's shapes with random weights, whole where memory allows
    understanding  MiniLM's tasks in bfloat16, batches of 1 to 1,024, against the best dense form, where fetched
    train          steps of saa train and saa joint in bfloat16, tokens per second

Under 8 minutes on one card. ``pytest -m gpu`` checks what needs pytest. ``--tiny`` runs the parts check and layer on
small shapes, also in Triton's interpreter; such times mean nothing and are marked.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import gpu_layers, gpu_models
from benchmarks.speed.gpu_shapes import Setting
from saa_core.errors import KernelError
from saa_core.files import write_json
from saa_core.trace.record import versions
from saa_core.triton import unavailable

RESULTS = Path(__file__).parent.parent / "results"


PARTS: dict[str, Callable[[Setting], list[dict[str, Any]]]] = {
    "check": gpu_layers.check,
    "layer": gpu_layers.layer,
    "prefill": gpu_models.prefill,
    "default": gpu_models.default,
    "shapes": gpu_models.shapes,
    "understanding": gpu_models.understanding,
    "train": gpu_models.train,
}
TINY_PARTS = ("check", "layer")


def run(setting: Setting, parts: list[str], again: list[str], out: Path) -> dict[str, Any]:
    """The file's content after all parts."""
    found: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.is_file() else {}
    place = (
        torch.cuda.get_device_name(setting.device)
        if setting.device.type == "cuda"
        else f"{setting.device.type}, Triton's interpreter"
    )
    about = {"device": place, "tiny": setting.tiny, "versions": versions()}
    if found and found["about"] != about:
        raise KernelError(
            f"out={str(out)!r} holds what was measured elsewhere ({found['about']}); name another file"
        )
    found["about"] = about
    found.setdefault("parts", {})
    for name in parts:
        if name in found["parts"] and name not in again:
            print(f"{name}: there already", file=sys.stderr)
            continue
        started = time.perf_counter()
        rows = PARTS[name](setting)
        seconds = time.perf_counter() - started
        found["parts"][name] = {"seconds": seconds, "rows": rows}
        write_json(out, found)
        for row in rows:
            print(f"{name}: {row}", flush=True)
        print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all by default")
    parser.add_argument("--again", nargs="+", choices=PARTS, default=[])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_kernels.json")
    parser.add_argument(
        "--engines", type=Path, help="the table of engines; beside OUT by default", metavar="FILE"
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    if reason := unavailable(device):
        parser.error(f"--device {options.device}: the kernels cannot run: {reason}")
    parts = options.parts or list(TINY_PARTS if options.tiny else PARTS)
    if options.tiny and not set(parts) <= set(TINY_PARTS):
        parser.error(f"--tiny: choose parts of: {', '.join(TINY_PARTS)}")
    engines = options.engines or options.out.with_name(f"{options.out.stem}_engines.json")
    run(Setting(device, options.tiny, options.repeats, engines), parts, options.again, options.out)


if __name__ == "__main__":
    main()
