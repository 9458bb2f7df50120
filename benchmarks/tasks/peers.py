"""Classification on a CPU beside what people deploy, in one process and in turns.

    python -m benchmarks.tasks.peers               # writes benchmarks/results/peers.json

The peers are the task's reference model as Transformers runs it (padded, eager PyTorch), and the same model
exported by torch.onnx and run by ONNX Runtime, padded, in float32 and in int8 (ONNX Runtime's dynamic
quantiser as it comes). Against them: SAA in PyTorch, and exported (``saa.export``) in float32 and int8, each
with the task's default share and margin; and the reference packed and exported the same way, so that what packing
brings is told from what the gates bring. Tokenizing is part of every time.

Rows: one per task, batch size and length, with the raw times of every side in the order in which they were
taken; and one per task with the labels that each side gets right and changes. What is in the file is not
measured again, so a run that was stopped goes on. Exported models lie in ``--work`` and are used again.
"""

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import saa_core as saa
from benchmarks.resume import read_rows
from saa_core.bounds import binomial_interval
from saa_core.data import fetch, labelled
from saa_core.export.engine import Engine, padded
from saa_core.export.export import write_graph
from saa_core.export.manifest import REFERENCE
from saa_core.export.quantise import quantise
from saa_core.export.record import versions
from saa_core.export.session import open_session
from saa_core.files import replacing, write_json
from saa_core.run.classify import classify, task_of
from saa_core.train.batches import pad_batch
from saa_core.train.masked import mean_states

RESULTS = Path(__file__).parent.parent / "results"
BATCHES = (1, 8, 32)
LENGTHS = (16, 32, 64, 128, 256)
"""Tokens; a text belongs to the first of these that is not below its length."""
LEAST = 8
"""Texts without which a length is left out."""
Side = Callable[[Sequence[str]], list[int]]
"""Texts to the places of their labels."""


class PlainGraph(nn.Module):
    """The reference as it is usually exported: padded, [B, N] token ids and mask to [B, C]."""

    def __init__(self, model: saa.Model) -> None:
        super().__init__()
        self.encoder, self.head = model.hf.base_model, task_of(model).head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[:, :, None].float()
        return self.head((states * real).sum(1) / real.sum(1)).softmax(-1)


class Padded:
    """An exported graph of token ids and mask, and the tokenizer of an engine."""

    def __init__(self, engine: Engine, session: Any) -> None:
        self.engine, self.session = engine, session

    def __call__(self, texts: Sequence[str]) -> list[int]:
        ids = self.engine.encode(texts, cut=True)
        (found,) = self.session.run(["probabilities"], padded(ids))
        return [int(row.argmax()) for row in found]


def eager(model: saa.Model, texts: Sequence[str]) -> list[int]:
    """The reference as Transformers runs it."""
    task = task_of(model)
    found = model.tokenizer(list(texts), truncation=True, max_length=task.longest)["input_ids"]
    tokens, mask = pad_batch(found, model)
    with torch.inference_mode():
        states = model.hf(tokens, attention_mask=mask.long()).last_hidden_state
        return list(task.probabilities(mean_states(states, mask)).argmax(-1).tolist())


def by_pytorch(model: saa.Model, texts: Sequence[str]) -> list[int]:
    labels = task_of(model).labels
    found = classify(model, texts, batch=len(texts), cut=True)
    return [labels.index(prediction.label) for prediction in found]


def by_engine(engine: Engine, texts: Sequence[str]) -> list[int]:
    labels = engine.about.labels
    found = engine.classify(texts, batch=len(texts), cut=True)
    return [labels.index(prediction.label) for prediction in found]


def sides(task: str, model: str, work: Path, threads: int) -> tuple[dict[str, Side], Engine]:
    """Everything that is compared, by name, and an engine that knows the task; what was exported before is
    used again."""
    sparse = saa.load(model, task=task, side="sparse", device="cpu")
    dense = sparse.reference_model
    found: dict[str, Side] = {
        "PyTorch, dense": partial(eager, dense),
        "PyTorch, SAA": partial(by_pytorch, sparse),
    }
    name = task_of(sparse).name
    for precision in ("float32", "int8"):
        small = precision == "int8"
        folder, plain = work / f"{name}-{precision}", work / f"{name}-plain-{precision}.onnx"
        if not folder.exists():
            saa.export(sparse, folder, int8=small)
        if not plain.exists():
            with replacing(plain) as part:
                if small:
                    plain_int8(work / f"{name}-plain-float32.onnx", part)
                else:
                    write_graph(PlainGraph(dense).eval(), part, int8=False)
        packed = folder / REFERENCE
        if small:  # saa.export leaves it in float32
            packed = work / f"{name}-packed-int8.onnx"
        if not packed.exists():
            with replacing(packed) as part:
                quantise(folder / REFERENCE, part)
        engine = saa.open_engine(folder, threads=threads)
        for kind, file in (("dense", plain), ("packed", packed)):
            session = open_session(file.read_bytes(), file.name, threads)
            found[f"ONNX Runtime, {kind}, {precision}"] = Padded(engine, session)
        found[f"ONNX Runtime, SAA, {precision}"] = partial(by_engine, engine)
    return found, engine


def plain_int8(source: Path, target: Path) -> None:
    """As most do it: everything that the quantiser takes, with its own settings."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


def time_in_turns(
    what: dict[str, Side], batches: Sequence[Sequence[str]], rounds: int, seed: int = 0
) -> dict[str, list[list[float]]]:
    """ms by side, round and batch; on each batch the sides take turns in an order that is drawn."""
    draw, samples = random.Random(seed), {name: list[list[float]]() for name in what}
    for turn in range(rounds + 1):
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
    found: dict[int, list[str]] = {length: [] for length in LENGTHS}
    for text, length in zip(texts, lengths, strict=True):
        home = next((each for each in LENGTHS if length <= each), LENGTHS[-1])
        found[home].append(text)
    return {length: own for length, own in found.items() if len(own) >= LEAST}


def accuracy(what: dict[str, Side], texts: Sequence[str], truth: Sequence[int]) -> dict[str, Any]:
    """Of each side: labels that are right, and that are not the first side's, with 95 % intervals."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    given: dict[str, Any] = {}
    for name, side in what.items():
        labels = np.zeros(len(texts), int)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            labels[part] = side([texts[index] for index in part])
        given[name] = labels
    first = next(iter(given.values()))
    found = {}
    for name, labels in given.items():
        right, changed = int((labels == np.array(truth)).sum()), int((labels != first).sum())
        found[name] = {
            "accuracy": right / len(texts),
            "accuracy_interval": binomial_interval(right, len(texts), 0.05),
            "changed": changed / len(texts),
            "changed_interval": binomial_interval(changed, len(texts), 0.05),
        }
    return found


def processor() -> str:
    """The name of the machine's processor, as far as the system tells it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text("utf-8").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(task: str, options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Adds the rows of one task that are not there yet, and writes the file after each."""
    threads = torch.get_num_threads()
    machine = {"processor": processor(), "cores": os.cpu_count(), "threads": threads}
    machine |= {"versions": versions() | {"torch": torch.__version__}}
    known = {(row["task"], row["what"], row.get("batch"), row.get("length")) for row in rows}
    what, engine = sides(task, options.model, options.work, threads)
    name, labels = engine.about.task, engine.about.labels
    examples = [e for e in labelled.read(options.data or name) if e.split == "test"]
    examples = examples[: options.texts]
    texts = [example.text for example in examples]

    def add(row: dict[str, Any]) -> None:
        rows.append({"task": name, **row, "machine": machine})
        write_json(options.out, rows)

    if (name, "accuracy", None, None) not in known:
        truth = [labels.index(example.label) for example in examples]
        found = accuracy(what, texts, truth)
        add({"what": "accuracy", "texts": len(texts), "sides": found})
    lengths = [min(length, engine.about.longest) for length in engine.lengths(texts)]
    for length, own in buckets(texts, lengths).items():
        for batch in options.batches:
            if (name, "time", batch, length) in known:
                continue
            draw = random.Random(f"{length}/{batch}")
            count = options.singles if batch == 1 else options.count
            batches = [draw.choices(own, k=batch) for _ in range(count)]
            samples = time_in_turns(what, batches, options.rounds)
            add({"what": "time", "batch": batch, "length": length, "ms": samples})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", nargs="+", help="names or folders; all shipped ones by default")
    parser.add_argument("--data", help="other test texts: a task's name, or a table")
    parser.add_argument("--texts", type=int, default=1000, help="test texts per task at most")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--singles", type=int, default=20, help="texts that are timed alone")
    parser.add_argument("--count", type=int, default=3, help="batches that are timed of each size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="exported models")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.out)
    for task in options.tasks or fetch.list_shipped("tasks", options.model):
        measure(task, options, rows)


if __name__ == "__main__":
    main()
