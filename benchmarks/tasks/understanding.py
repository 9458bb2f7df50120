"""Language understanding: accuracy, work and time at several shares of the token work, per task.

    python -m benchmarks.tasks.understanding      # writes benchmarks/results/understanding.json and .svg

Every shipped task, on test texts that neither side was trained on. Dense is the task's reference model in
its faster form: padded to the longest text of the batch as Transformers does it, or packed without
padding; batches are sorted by length for all. Rounds are interleaved in one process, and the time of
each is kept. Operations are counted from shapes, gates included. At a share of 1 the model that was trained
with the gates drops nothing.

``--tasks`` takes folders too, so that other seeds of a task (saa train-task --teacher) become rows;
``--data`` tests on another task's texts (domain shift, or another language). ``--no-times`` times nothing,
for a machine that does other work meanwhile; such rows have no times. Rows are added to those of the file;
those of the same task, seed and data are replaced. Texts that change their label are traced into
``--flips``: texts may not be ours to publish, so the folder is for the one who runs this.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt
import torch

import saa_core as saa
from saa_core.data import fetch, labelled
from saa_core.files import write_json
from saa_core.run.classify import answers, task_of
from saa_core.task import read_task
from saa_core.train.batches import pad_batch
from saa_core.train.evaluate import interval
from saa_core.train.masked import mean_states
from saa_core.types import quartiles

RESULTS = Path(__file__).parent.parent / "results"
SHARES = (1.0, 0.7, 0.6, 0.5, 0.35)
BATCH = 32
LONG = 200
"""Tokens from which a text counts as long."""
DEFAULT = "default"
TRACED = 3
"""Changed labels per task that are traced."""
Ids = list[list[int]]
Side = Callable[[Ids], object]


def policies(model: saa.Model, shares: Sequence[float]) -> dict[str, saa.Policy]:
    """What is compared with dense, by name: each share of the token work, and the task's default."""
    default = model.spec.policy
    bare = {f"{s:g}": saa.Policy(mass=1.0, tokens=None if s >= 1 else s) for s in shares}
    return {name: p for name, p in bare.items() if p != default} | {DEFAULT: default}


def sides(
    sparse: saa.Model, dense: saa.Model, compared: Mapping[str, saa.Policy]
) -> dict[str, Side]:
    """What is timed, texts in and probabilities of labels out: two dense forms, and SAA under each policy."""
    task = task_of(dense)

    def as_transformers(ids: Ids) -> None:
        tokens, mask = pad_batch(ids, dense)
        with torch.inference_mode():
            states = dense.hf(tokens, attention_mask=mask.long()).last_hidden_state
            task.probabilities(mean_states(states, mask))

    found: dict[str, Side] = {
        "dense, padded": as_transformers,
        "dense, packed": partial(answers, dense),
    }
    return found | {name: partial(answers, sparse, policy=p) for name, p in compared.items()}


def time_sides(
    what: dict[str, Side], batches: list[Ids], rounds: int
) -> dict[str, list[list[float]]]:
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


def read_test_texts(
    task: str, name: str, options: argparse.Namespace
) -> list[labelled.LabelledText]:
    """Test texts of the task itself, of another task, or of a user's table."""
    source = options.data or name
    known = labelled.read(source)
    return [example for example in known if example.split == "test"][: options.texts]


def measure(task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one task folder."""
    sparse = saa.load(options.model, task=task, side="sparse", device="cpu")
    dense = saa.load(options.model, task=task, side="dense", device="cpu")
    assert sparse.task is not None
    name, compared = sparse.task.name, policies(sparse, options.shares)
    test = read_test_texts(task, name, options)
    ids: Ids = sparse.tokenizer(
        [example.text for example in test],
        truncation=True,
        max_length=sparse.task.longest,
        verbose=False,
    )["input_ids"]
    truth = torch.tensor([sparse.task.labels.index(example.label) for example in test])
    times = None if options.no_times else Times(sparse, dense, compared, ids, options)
    full = answers(dense, ids).probabilities
    right_dense = (full.argmax(-1) == truth).float()
    rows = []
    for key, policy in compared.items():
        answered = answers(sparse, ids, policy)
        found, flops = answered.probabilities, answered.flops_share
        right, changed = (found.argmax(-1) == truth).float(), found.argmax(-1) != full.argmax(-1)
        lo, hi = interval((right - right_dense).tolist())
        rows.append(
            {
                "task": name,
                "seed": int(sparse.task.training["config"]["seed"]),
                "data": options.data or name,
                "tokens": policy.tokens or 1.0,
                "margin": policy.guard.margin if policy.guard else 0.0,
                "asked": float(answered.dense.float().mean()),
                "default": key == DEFAULT,
                "accuracy": float(right.mean()),
                "dense_accuracy": float(right_dense.mean()),
                "difference_lo": lo,
                "difference_hi": hi,
                "flips": flips(full, found, truth, ids),
                "changed": float(changed.float().mean()),
                "texts": len(test),
                "mean_tokens": sum(map(len, ids)) / len(ids),
                "flops_share": flops,
            }
        )
        row = rows[-1]
        said = (
            f"{name:10} {key:8} {policy}: accuracy {100 * row['accuracy']:.1f} % (dense "
            f"{100 * row['dense_accuracy']:.1f}), operations {100 * flops:.0f} %"
        )
        if times:
            row |= times.of(key)
            said += (
                f", throughput at 32 {row['throughput_ratio_b32']:.2f}x, one at a time "
                f"{row['latency_ratio_b1']:.2f}x"
            )
        print(said, flush=True)
        if options.flips and key == DEFAULT:
            texts = [test[int(i)].text for i in changed.nonzero()[:TRACED, 0]]
            folder = options.flips / f"{name}-{rows[-1]['seed']}"
            trace_flips(sparse, dense, policy, texts, folder)
    return rows


class Times:
    """Every side timed on some batches of texts, and on some texts alone.

    Args:
        compared: policies by name; :meth:`of` takes such a name.
        ids: of all texts.
    """

    def __init__(
        self,
        sparse: saa.Model,
        dense: saa.Model,
        compared: Mapping[str, saa.Policy],
        ids: Ids,
        options: argparse.Namespace,
    ) -> None:
        ordered = sorted(ids, key=len)
        batches = [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
        some = batches[:: max(1, len(batches) // options.batches)]
        singles = [[own] for own in ids[: options.singles]]
        what = sides(sparse, dense, compared)
        self.many = time_sides(what, some, options.rounds)
        self.one = time_sides(what, singles, options.rounds)
        self.long = [index for index, (own,) in enumerate(singles) if len(own) >= LONG]
        self.one_long = {
            side: [[r[i] for i in self.long] for r in rounds] for side, rounds in self.one.items()
        }

    def of(self, key: str) -> dict[str, Any]:
        """The columns of one policy's row."""
        throughput, form = ratios(self.many, key)
        latency, form_one = ratios(self.one, key)
        return {
            "throughput_ratio_b32": throughput[1],
            "throughput_quartiles": [throughput[0], throughput[2]],
            "best_dense_b32": form,
            "latency_ratio_b1": latency[1],
            "latency_quartiles": [latency[0], latency[2]],
            "latency_ratio_b1_long": ratios(self.one_long, key)[0][1] if self.long else None,
            "long_texts": len(self.long),
            "best_dense_b1": form_one,
            "latency_ms_b1": {side: spread(self.one[side]) for side in (form_one, key)},
            "round_ms": {"b32": totals(self.many, key), "b1": totals(self.one, key)},
            "threads": torch.get_num_threads(),
        }


def totals(samples: dict[str, list[list[float]]], key: str) -> dict[str, list[float]]:
    """ms of each whole round, of both dense forms and of one policy."""
    return {
        side: [round(sum(found), 3) for found in rounds]
        for side, rounds in samples.items()
        if side.startswith("dense") or side == key
    }


def spread(rounds: list[list[float]]) -> dict[str, float]:
    """p50 and p90 over texts of each text's median over rounds, ms."""
    each = sorted(statistics.median(samples) for samples in zip(*rounds, strict=True))
    return {"p50": each[len(each) // 2], "p90": each[min(len(each) - 1, int(0.9 * len(each)))]}


def flips(full: torch.Tensor, found: torch.Tensor, truth: torch.Tensor, ids: Ids) -> dict[str, Any]:
    """Which labels change: for better or worse, how sure dense was of them, how long the texts are."""
    before, after = full.argmax(-1), found.argmax(-1)
    changed = before != after
    top = full.topk(2).values
    margin = top[:, 0] - top[:, 1]
    length = torch.tensor([len(own) for own in ids]).float()

    def mean(values: torch.Tensor) -> float | None:
        return float(values.mean()) if len(values) else None

    return {
        "right_to_wrong": int(((before == truth) & (after != truth)).sum()),
        "wrong_to_right": int(((before != truth) & (after == truth)).sum()),
        "wrong_to_wrong": int(((before != truth) & (after != truth) & changed).sum()),
        "dense_margin_of_changed": mean(margin[changed]),
        "dense_margin_of_others": mean(margin[~changed]),
        "tokens_of_changed": mean(length[changed]),
        "tokens_of_others": mean(length[~changed]),
    }


def trace_flips(
    sparse: saa.Model, dense: saa.Model, policy: saa.Policy, texts: list[str], folder: Path
) -> None:
    """Records what changed: one trace per side and text, to be opened in the app."""
    folder.mkdir(parents=True, exist_ok=True)
    assert sparse.task is not None
    for index, text in enumerate(texts):
        known = sparse.tokenizer(
            text, truncation=True, max_length=sparse.task.longest, return_offsets_mapping=True
        )
        shown = text[: max(end for _, end in known["offset_mapping"])]
        saa.run(sparse, shown, policy).save(folder / f"{index}-saa.saa")
        saa.run(dense, shown).save(folder / f"{index}-dense.saa")


def run_of(row: dict[str, Any]) -> tuple[str, int, str]:
    """What was measured together, and is replaced together."""
    return row["task"], row["seed"], row["data"]


def shipped_seeds() -> dict[str, int]:
    """Seed of the gates that ship for MiniLM, by task."""
    folder, names = fetch.assets() / "tasks" / "minilm", fetch.list_shipped("tasks", "minilm")
    return {task: read_task(folder / task).training["config"]["seed"] for task in names}


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """A panel per task: accuracy lost by each seed, and time saved by that which ships, over the work.

    The default is ringed. Of a task that does not ship every seed is timed. Without times there is one row of
    panels.
    """
    ships = shipped_seeds()
    shown = [
        {
            "task": row["task"],
            "seed": str(row["seed"]),
            "work": row["flops_share"],
            "lost": 100 * (row["accuracy"] - row["dense_accuracy"]),
            "faster": row.get("throughput_ratio_b32")
            if row["seed"] == ships.get(row["task"], row["seed"])
            else None,
            "default": row["default"],
        }
        for row in rows
        if row["data"] == row["task"]
    ]
    base = alt.Chart(alt.Data(values=shown)).encode(
        x=alt.X(
            "work:Q",
            title="operations",
            scale=alt.Scale(zero=False, domainMax=1),
            axis=alt.Axis(format="%", values=[0.4, 0.6, 0.8, 1], labelFlush=False),
        ),
        color=alt.Color("seed:N", title="seed of the gates", legend=alt.Legend(orient="bottom")),
    )
    panels = []
    fields = {"lost": ["accuracy against dense,", "points"]}
    if any(row["faster"] for row in shown):
        fields["faster"] = ["throughput at 32", "against dense, times"]
    for field, title in fields.items():
        line = base.mark_line(opacity=0.5).encode(y=alt.Y(f"{field}:Q", title=title))
        points = base.mark_point(filled=True, size=25).encode(y=f"{field}:Q")
        chosen = (
            base.transform_filter("datum.default")
            .mark_point(size=140, strokeWidth=2)
            .encode(y=f"{field}:Q")
        )
        layers = (line + points + chosen).properties(width=160, height=150)
        panels.append(layers.facet(column=alt.Column("task:N", title=None)))
    alt.vconcat(*panels).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tasks", nargs="+", help="names or folders; all shipped ones by default")
    parser.add_argument("--data", help="other test texts: a task's name, or a table")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--texts", type=int, default=1000, help="test texts per task at most")
    parser.add_argument("--batches", type=int, default=4, help="batches of 32 that are timed")
    parser.add_argument("--singles", type=int, default=30, help="texts that are timed alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-times", action="store_true", help="count and answer, time nothing")
    parser.add_argument("--flips", type=Path, help="folder for traces of texts that change")
    parser.add_argument("--out", type=Path, default=RESULTS / "understanding.json")
    options = parser.parse_args()
    tasks = options.tasks or fetch.list_shipped("tasks", options.model)
    rows: list[dict[str, Any]] = []
    if options.out.is_file():
        rows = [row for row in json.loads(options.out.read_text()) if "data" in row]
    for task in tasks:
        found = measure(task, options)
        rows = [row for row in rows if run_of(row) != run_of(found[0])] + found
        rows.sort(key=lambda row: (*run_of(row), -row["tokens"], row["margin"]))
        write_json(options.out, rows)
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
