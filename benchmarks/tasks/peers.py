"""Classification on a CPU beside what people deploy, in one process and in turns.

    python -m benchmarks.tasks.peers --minutes 12 --batches 1 32    # writes benchmarks/results/peers.json
    python -m benchmarks.tasks.peers --what accuracy process        # on all test texts; needs no quiet machine
    python -m benchmarks.tasks.peers --what prepare                 # exports and compiles, so that nothing has to later

The sides are those of :mod:`benchmarks.tasks.peer_sides`, SAA with each task's default share and margin. Tokenizing is
part of every time.

Rows: of the machine, what it can do at best; per task, batch size and length the raw times of every side in the
order in which they were taken, with what the texts need; per task and side the labels that are right and changed, on
all test texts; per task and engine how it starts in a process of its own, and what it holds. What is in the file is
not measured again, so a run that was stopped, or that ``--minutes`` ended, goes on. Exported models lie in ``--work``
and are used again.
"""

import argparse
import os
import platform
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import saa_core as saa
from benchmarks.resume import read_rows
from benchmarks.tasks import peer_process, roofline
from benchmarks.tasks.peer_sides import DENSE, SIDES, Exported, Side, open_sides
from saa_core.bounds import binomial_interval
from saa_core.data import fetch, labelled
from saa_core.export.engine import Engine
from saa_core.export.record import versions
from saa_core.files import replacing, write_json

RESULTS = Path(__file__).parent.parent / "results"
BATCHES = (1, 8, 32)
LENGTHS = (16, 32, 64, 128, 256)
"""Tokens; a text belongs to the first of these that is not below its length."""
FIRST = (32, 256, 128, 64, 16)
"""The order in which lengths are timed, so that a run that is stopped has short and long ones."""
LEAST = 8
"""Texts without which a length is left out."""
ROUNDS = 3
"""Of times, at least."""
STARTS = 3
"""Processes that each engine is started in."""
UNITS = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
"""What a processor may multiply with."""
WHAT = ("prepare", "time", "process", "accuracy")


def time_in_turns(
    what: Mapping[str, Side],
    batches: Sequence[Sequence[str]],
    rounds: int,
    seconds: float = float("inf"),
    seed: int = 0,
) -> dict[str, list[list[float]]]:
    """ms by side, round and batch; on each batch the sides take turns in an order that is drawn.

    Args:
        rounds: at most.
        seconds: after which no further round begins, once there are ROUNDS.
    """
    draw, samples = random.Random(seed), {name: list[list[float]]() for name in what}
    began = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > ROUNDS and time.perf_counter() - began > seconds:
            break
        for name in samples:
            samples[name].append([])
        for texts in batches:
            for name in draw.sample(list(what), len(what)):
                started = time.perf_counter()
                what[name](texts)
                spent = 1000 * (time.perf_counter() - started)
                samples[name][turn].append(round(spent, 4))
    return {name: found[1:] for name, found in samples.items()}  # the first round warms up


def buckets(texts: Sequence[str], lengths: Sequence[int]) -> dict[int, list[str]]:
    """Texts by the first of LENGTHS that holds them."""
    found: dict[int, list[str]] = {length: [] for length in FIRST}
    for text, length in zip(texts, lengths, strict=True):
        home = next((each for each in LENGTHS if length <= each), LENGTHS[-1])
        found[home].append(text)
    return {length: own for length, own in found.items() if len(own) >= LEAST}


def label_all(side: Side, texts: Sequence[str]) -> np.ndarray:
    """The labels that a side gives, in the texts' order; texts of similar length together."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    given = np.zeros(len(texts), int)
    for start in range(0, len(order), 32):
        part = order[start : start + 32]
        given[part] = side([texts[index] for index in part])
    return given


def accuracy(given: np.ndarray, dense: np.ndarray, truth: Sequence[int]) -> dict[str, Any]:
    """Labels that are right, and that are not dense's, with 95 % intervals; points lost against dense."""
    texts = len(given)
    right, changed = int((given == np.array(truth)).sum()), int((given != dense).sum())
    before = int((dense == np.array(truth)).sum())
    return {
        "texts": texts,
        "accuracy": right / texts,
        "accuracy_interval": binomial_interval(right, texts, 0.05),
        "changed": changed / texts,
        "changed_interval": binomial_interval(changed, texts, 0.05),
        "lost_points": 100 * (before - right) / texts,
    }


def processor() -> str:
    """The name of the machine's processor, as far as the system tells it, and what it multiplies with."""
    known = Path("/proc/cpuinfo")
    about = dict[str, str]()
    for line in known.read_text("utf-8").splitlines() if known.is_file() else []:
        name, _, value = line.partition(":")
        about.setdefault(name.strip(), value.strip())
    flags = about.get("flags", "").split()
    found = about.get("model name") or platform.processor() or platform.machine()
    return ", ".join([found, *(unit for unit in UNITS if unit in flags)])


class Measured:
    """The rows of the file so far, and whether there is time for more."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.out, self.rows = out, read_rows(out)
        self.last = self.ends = time.monotonic() + 60 * minutes

    def give(self, part: float) -> None:
        """Time for what comes now: a part of what is left."""
        now = time.monotonic()
        self.ends = now + part * (self.last - now)

    def missing(self, **key: object) -> bool:
        """Whether a row of this key is to be measured: it is not there, and there is time."""
        known = any(all(row.get(name) == key[name] for name in key) for row in self.rows)
        return not known and time.monotonic() < self.ends

    def add(self, row: Mapping[str, Any]) -> None:
        threads = torch.get_num_threads()
        machine = {"processor": processor(), "cores": os.cpu_count(), "threads": threads}
        machine |= {"versions": versions() | {"torch": torch.__version__}}
        self.rows.append({**row, "machine": machine})
        write_json(self.out, self.rows)
        print(*(row.get(name) for name in ("task", "what", "side", "batch", "length")), flush=True)


def measure_times(
    name: str, files: Exported, texts: Sequence[str], engine: Engine, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The rows of one task that are not there yet."""
    measured: Measured = options.measured
    lengths = [min(length, engine.about.longest) for length in engine.lengths(texts)]
    todo = [
        (batch, length, own)
        for length, own in buckets(texts, lengths).items()
        for batch in options.batches
        if measured.missing(task=name, what="time", batch=batch, length=length)
    ]
    if not todo:
        return
    what, refused = open_sides(files, torch.get_num_threads(), options.sides)
    for batch, length, own in todo:
        if not measured.missing(task=name, what="time", batch=batch, length=length):
            return
        draw = random.Random(f"{length}/{batch}")
        count = options.singles if batch == 1 else options.count
        batches = [draw.choices(own, k=batch) for _ in range(count)]
        samples = time_in_turns(what, batches, options.rounds, options.seconds)
        about = {"task": name, "what": "time", "batch": batch, "length": length}
        yield about | {
            "ms": samples,
            "left_out": refused,
            "needs": roofline.needs(engine, batches),
        }


def measure_accuracy(
    name: str,
    files: Exported,
    texts: Sequence[str],
    truth: Sequence[int],
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """The rows of one task that are not there yet, one side after the other: dense is the first."""
    measured: Measured = options.measured
    stored = files.work / f"{name}-labels-{len(texts)}.npy"
    for side in dict.fromkeys((DENSE, *options.sides)):
        if not measured.missing(task=name, what="accuracy", side=side):
            continue
        what, refused = open_sides(files, torch.get_num_threads(), [side])
        row: dict[str, Any] = {"task": name, "what": "accuracy", "side": side}
        if refused:
            yield row | {"left_out": refused[side]}
            continue
        given = label_all(what[side], texts)
        if side == DENSE:
            with replacing(stored) as part, part.open("wb") as stream:
                np.save(stream, given)
        yield row | accuracy(given, np.load(stored), truth)


def measure(task: str, options: argparse.Namespace) -> None:
    """Adds the rows of one task, and writes the file after each."""
    measured: Measured = options.measured
    files = Exported(task, options.model, options.work)
    engine = saa.open_engine(files.folder("float32"), threads=torch.get_num_threads())
    name, labels = engine.about.task, engine.about.labels
    examples = [e for e in labelled.read(options.data or name) if e.split == "test"]
    examples = examples[: options.texts]
    texts = [example.text for example in examples]
    if "prepare" in options.what:
        files.make()
        open_sides(files, torch.get_num_threads(), options.sides)
    if "time" in options.what:
        for row in measure_times(name, files, texts, engine, options):
            measured.add(row)
    if "process" in options.what:
        files.make()
        for side in peer_process.SIDES:
            if measured.missing(task=name, what="process", side=side):
                row = {"task": name, "what": "process", "side": side}
                try:
                    found = [peer_process.start(side, name, options.work) for _ in range(STARTS)]
                    measured.add(row | {"starts": found})
                except RuntimeError as error:
                    measured.add(row | {"left_out": str(error)})
    if "accuracy" in options.what:
        truth = [labels.index(example.label) for example in examples]
        for row in measure_accuracy(name, files, texts, truth, options):
            measured.add(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", nargs="+", help="names or folders; all shipped ones by default")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT[1:]))
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=list(SIDES), help="to be timed"
    )
    parser.add_argument("--data", help="other test texts: a task's name, or a table")
    parser.add_argument("--texts", type=int, help="test texts per task at most; all by default")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--singles", type=int, default=8, help="texts that are timed alone")
    parser.add_argument("--count", type=int, default=1, help="batches that are timed of each size")
    parser.add_argument("--rounds", type=int, default=15, help="at most")
    parser.add_argument(
        "--seconds", type=float, default=8, help=f"of a row, once it has {ROUNDS} rounds"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no row begins later")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="exported models")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.measured = Measured(options.out, options.minutes)
    if "time" in options.what and options.measured.missing(what="machine"):
        options.measured.add({"what": "machine", **roofline.measure_machine()})
    tasks = options.tasks or fetch.list_shipped("tasks", options.model)
    for left, task in zip(range(len(tasks), 0, -1), tasks, strict=True):
        options.measured.give(1 / left)
        measure(task, options)


if __name__ == "__main__":
    main()
