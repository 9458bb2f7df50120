"""How many texts per second does one process hold, with each engine? Tokenizing inside, dynamic batches.

    python -m benchmarks.speed.load_peers --minutes 10      # writes benchmarks/results/load_peers.json

As :mod:`benchmarks.speed.load`, with the sides of :mod:`benchmarks.tasks.peer_sides`, for two limits of the 95th
percentile of latency, and for arrivals that are independent (Poisson) or come in bursts: bursts arrive at random
times, and how many texts one has is drawn from a geometric distribution with a mean of BURST. A row that is in the
file is not measured again.
"""

import argparse
import random
import time
from pathlib import Path

import torch

import saa_core as saa
from benchmarks.speed.load import highest
from benchmarks.tasks.peer_sides import SIDES, Exported, open_sides
from benchmarks.tasks.peers import RESULTS, Measured
from saa_core.data import labelled

BATCH, BURST, STEP = 32, 8, 1.1
LIMITS = (100.0, 30.0)
"""ms that 95 % of the answers take at most."""
ARRIVALS = {"poisson": 1, "bursts": BURST}
"""Names, and texts that arrive together on average."""
FAST = (
    "PyTorch, dense",
    "PyTorch, SAA",
    "ONNX Runtime, dense, float32",
    "ONNX Runtime, dense, int8",
    "OpenVINO, dense, bfloat16",
    "ONNX Runtime, SAA, float32",
    "ONNX Runtime, SAA, int8",
    "OpenVINO, SAA, bfloat16",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--task", default="sentences", help="shipped task or folder")
    parser.add_argument("--data", help="other texts: a task's name, or a table")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(FAST))
    parser.add_argument("--seconds", type=float, default=3.0, help="of arrivals per rate")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--start", type=float, help="texts per second to begin with")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no row begins later")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="exported models")
    parser.add_argument("--out", type=Path, default=RESULTS / "load_peers.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    measured = Measured(options.out, options.minutes)
    files = Exported(options.task, options.model, options.work)
    engine = saa.open_engine(files.folder("float32"), threads=torch.get_num_threads())
    name = engine.about.task
    texts = [e.text for e in labelled.read(options.data or name) if e.split == "test"]
    what, refused = open_sides(files, torch.get_num_threads(), options.sides)
    lengths = engine.lengths(texts)
    about = {"task": name, "what": "load", "mean_tokens": sum(lengths) / len(lengths)}
    draw, starts = random.Random(0), dict[str, float]()
    for repeat in range(options.repeats):
        for limit in LIMITS:
            for arrivals, burst in ARRIVALS.items():
                for side, run in what.items():
                    key = {"side": side, "limit_ms": limit, "arrivals": arrivals, "repeat": repeat}
                    if not measured.missing(task=name, **key):
                        continue
                    if side not in starts:  # warm up, and guess where to begin
                        batch = sorted(draw.choices(texts, k=BATCH), key=len)
                        run(batch)
                        began = time.perf_counter()
                        run(batch)
                        spent = time.perf_counter() - began
                        starts[side] = options.start or 0.7 * BATCH / spent
                    rate, tried = highest(
                        run, texts, starts[side], limit, options.seconds, repeat, burst, STEP
                    )
                    starts[side] = rate or starts[side]
                    measured.add(
                        {**about, **key, "rate": rate, "tried": tried, "left_out": refused}
                    )


if __name__ == "__main__":
    main()
