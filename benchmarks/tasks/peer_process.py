"""One engine in a process of its own: how long until it answers, and how much memory it holds then.

    python -m benchmarks.tasks.peer_process SIDE --task sentences --work runs/peers     # prints one line of JSON

Called by :mod:`benchmarks.tasks.peers`, once for each sample; nothing is loaded that the side does not need, and
PyTorch not by an exported one. Memory is of Linux: what the process holds after its first answer, and the most that
it ever held. Files are in the page cache.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEXT = "It is a film that stays with you for days."
SIDES = {
    "PyTorch, dense": "pytorch",
    "ONNX Runtime, dense, float32": "plain-float32.onnx",
    "ONNX Runtime, dense, int8": "plain-int8.onnx",
    "OpenVINO, dense, bfloat16": "plain-float32.onnx",
    "ONNX Runtime, SAA, float32": "float32",
    "ONNX Runtime, SAA, int8": "int8",
}
"""Engines that are started, and the file or folder that each opens."""


def first_answer(side: str, task: str, work: Path) -> list[str]:
    """Opens the side's files and answers one text; names the packages that did it."""
    opened = work / f"{task}-{SIDES[side]}"
    if side == "PyTorch, dense":
        import saa_core as saa
        from benchmarks.tasks.peer_sides import Exported, open_side

        open_side(side, Exported(task, "minilm", work), threads=os.cpu_count() or 1)([TEXT])
        return [saa.__name__, "torch"]
    if "SAA" in side:
        from saa_core.export.engine import open_engine

        open_engine(opened).classify([TEXT], margin=0.0)
        return ["saa_core", "onnxruntime"]
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / f"{task}-float32" / "tokenizer.json"))
    ids = np.array([tokenizer.encode(TEXT).ids])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if side.startswith("OpenVINO"):
        import openvino

        core = openvino.Core()
        core.compile_model(str(opened), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})(feeds)
        return ["openvino"]
    import onnxruntime

    onnxruntime.InferenceSession(opened, providers=["CPUExecutionProvider"]).run(None, feeds)
    return ["onnxruntime"]


def start(side: str, task: str, work: Path) -> dict[str, Any]:
    """Starts a side in a fresh process: seconds to its first answer, MiB that it holds then and at most.

    Raises:
        RuntimeError: it failed; says how.
    """
    command = [sys.executable, "-m", __name__, side]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--task", task, "--work", str(work)], capture_output=True, text=True
    )
    whole = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # The end of the process is not part of its start.
    return found | {"seconds": round(whole - found.pop("after"), 4)}


def held() -> Mapping[str, float]:
    """MiB of this process: now, and at most."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    now = pages * resource.getpagesize() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"mib": round(now, 1), "most_mib": round(most, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--task", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/peers"))
    options = parser.parse_args()
    by = first_answer(options.side, options.task, options.work)
    answered = time.perf_counter()
    print(json.dumps({"by": by, **held(), "after": time.perf_counter() - answered}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
