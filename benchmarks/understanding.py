"""Language understanding: accuracy, work and time at several shares of the token work, per task.

    python benchmarks/understanding.py      # writes benchmarks/results/understanding.json and .svg

Every shipped task, on its test texts. Dense is the task's dense side in its faster form: padded to the
longest text of the batch as Transformers does it, or packed without padding; batches are sorted by
length for all. Rounds are interleaved in one process, raw samples kept. Operations are counted from
shapes, gates included.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt
import torch

import saa_core as saa
from saa_core import fetch
from saa_core.files import write_json
from saa_core.packed import encode
from saa_core.train import labelled
from saa_core.train.evaluate import interval
from saa_core.train.masked import padded
from saa_core.types import quartiles
from saa_core.work import flops_against_dense

RESULTS = Path(__file__).parent / "results"
SHARES = (0.7, 0.5, 0.35)
BATCH = 32
Ids = list[list[int]]
Side = Callable[[Ids], object]


def answers(model: saa.Model, ids: Ids, share: float) -> tuple[list[int], float]:
    """Label index per text, and the share of dense operations that was done."""
    assert model.task is not None
    policy = None if share >= 1 else saa.Policy(mass=1.0, tokens=share)
    found = [0] * len(ids)
    done = full = 0
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        encoded = encode(model, [ids[row] for row in part], policy)
        best = model.task.probabilities(encoded.means).argmax(-1).tolist()
        for row, label in zip(part, best, strict=True):
            found[row] = label
        flops, dense = flops_against_dense(model, encoded.needed.T, gates=share < 1)
        done, full = done + int(flops.sum()), full + int(dense.sum())
    return found, done / full


def sides(sparse: saa.Model, dense: saa.Model, shares: tuple[float, ...]) -> dict[str, Side]:
    """What is timed: two dense forms, and SAA at each share."""

    def as_transformers(ids: Ids) -> None:
        tokens, mask = padded(ids, dense)
        with torch.inference_mode():
            dense.hf(tokens, attention_mask=mask.long())

    found: dict[str, Side] = {
        "dense, padded": as_transformers,
        "dense, packed": partial(encode, dense),
    }
    for share in shares:
        found[f"{share:g}"] = partial(encode, sparse, policy=saa.Policy(mass=1.0, tokens=share))
    return found


def timed(what: dict[str, Side], batches: list[Ids], rounds: int) -> dict[str, list[list[float]]]:
    """ms per side, round and batch; the sides take turns on each batch."""
    samples: dict[str, list[list[float]]] = {name: [] for name in what}
    for turn in range(rounds + 1):
        for name in samples:
            samples[name].append([])
        for index, ids in enumerate(batches):
            names = list(what) if (turn + index) % 2 else list(what)[::-1]
            for name in names:
                started = time.perf_counter()
                what[name](ids)
                samples[name][-1].append(1000 * (time.perf_counter() - started))
    return {name: found[1:] for name, found in samples.items()}  # the first round warms up


def ratios(
    samples: dict[str, list[list[float]]], name: str
) -> tuple[tuple[float, float, float], str]:
    """Quartiles of dense time / SAA time over rounds, against the faster dense form."""
    total = {side: [sum(found) for found in rounds] for side, rounds in samples.items()}
    dense = [side for side in total if side.startswith("dense")]
    best = min(dense, key=lambda side: quartiles(total[side])[1])
    pairs = zip(total[best], total[name], strict=True)
    return quartiles([slow / fast for slow, fast in pairs]), best


def measure(task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    sparse = saa.load(options.model, task=task, device="cpu")
    dense = saa.load(options.model, task=task, side="dense", device="cpu")
    assert sparse.task is not None
    name = sparse.task.name
    known = labelled.examples(name) if options.data is None else labelled.from_file(options.data)
    test = [example for example in known if example.split == "test"][: options.texts]
    ids: Ids = sparse.tokenizer(
        [example.text for example in test],
        truncation=True,
        max_length=sparse.task.longest,
        verbose=False,
    )["input_ids"]
    truth = [sparse.task.labels.index(example.label) for example in test]
    ordered = sorted(ids, key=len)
    batches = [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
    some = batches[:: max(1, len(batches) // options.batches)]
    singles = [[own] for own in ids[: options.singles]]
    what = sides(sparse, dense, tuple(options.shares))
    many, one = timed(what, some, options.rounds), timed(what, singles, options.rounds)
    full, _ = answers(dense, ids, 1.0)
    right_dense = [float(a == b) for a, b in zip(full, truth, strict=True)]
    rows = []
    for share in options.shares:
        found, flops = answers(sparse, ids, share)
        right = [float(a == b) for a, b in zip(found, truth, strict=True)]
        lost = [a - b for a, b in zip(right, right_dense, strict=True)]
        lo, hi = interval(lost)
        throughput, form = ratios(many, f"{share:g}")
        latency, form_one = ratios(one, f"{share:g}")
        rows.append(
            {
                "task": name,
                "seed": int(sparse.task.training["config"]["seed"]),
                "tokens": share,
                "accuracy": sum(right) / len(right),
                "dense_accuracy": sum(right_dense) / len(right),
                "difference_lo": lo,
                "difference_hi": hi,
                "changed": sum(a != b for a, b in zip(found, full, strict=True)) / len(found),
                "texts": len(test),
                "mean_tokens": sum(map(len, ids)) / len(ids),
                "flops_share": flops,
                "throughput_ratio_b32": throughput[1],
                "throughput_quartiles": [throughput[0], throughput[2]],
                "best_dense_b32": form,
                "latency_ratio_b1": latency[1],
                "latency_quartiles": [latency[0], latency[2]],
                "best_dense_b1": form_one,
                "samples_ms": {"b32": many, "b1": one},
                "threads": torch.get_num_threads(),
            }
        )
        row = rows[-1]
        print(
            f"{name:10} tokens {share:.2f}: accuracy {100 * row['accuracy']:.1f} % (dense "
            f"{100 * row['dense_accuracy']:.1f}), operations {100 * flops:.0f} %, throughput at 32 "
            f"{throughput[1]:.2f}x, one at a time {latency[1]:.2f}x",
            flush=True,
        )
    return rows


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Accuracy lost over work done; to the left is cheaper."""
    shown = [
        row
        | {"lost": 100 * (row["accuracy"] - row["dense_accuracy"])}
        | {"lo": 100 * row["difference_lo"], "hi": 100 * row["difference_hi"]}
        for row in rows
    ]
    base = alt.Chart(
        alt.Data(values=[{k: v for k, v in r.items() if k != "samples_ms"} for r in shown])
    )
    base = base.encode(
        x=alt.X("flops_share:Q", title="operations, share of dense", axis=alt.Axis(format="%")),
        color=alt.Color("task:N", title=None),
    )
    points = base.mark_line(point=True).encode(
        y=alt.Y("lost:Q", title="accuracy against dense, points (95 % interval)")
    )
    (points + base.mark_rule().encode(y="lo:Q", y2="hi:Q")).properties(width=380, height=260).save(
        file
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", nargs="+", help="names or folders; all shipped ones by default")
    parser.add_argument("--data", help="table with the test texts, for a task of one's own")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--texts", type=int, default=1000, help="test texts per task at most")
    parser.add_argument("--batches", type=int, default=8, help="batches of 32 that are timed")
    parser.add_argument("--singles", type=int, default=40, help="texts that are timed alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "understanding.json")
    options = parser.parse_args()
    shipped = fetch.assets() / "tasks" / options.model
    tasks = options.tasks or sorted(path.name for path in shipped.glob("*") if path.is_dir())
    rows = [row for task in tasks for row in measure(task, options)]
    write_json(options.out, rows)
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
