"""How many texts per second does one process hold? Poisson arrivals, dynamic batches, p95 under a limit.

    python -m benchmarks.speed.load               # writes benchmarks/results/load.json and .svg

Texts of one task arrive at random times at a given mean rate; one worker takes everything that waits,
up to 32 texts, and answers it as one batch. A text's latency is from its arrival to its answer. The rate
is raised step by step until the 95th percentile passes the limit; the highest rate that held counts.
Dense (padded and packed, whichever holds more) and SAA at each share take turns, several times over.
Nothing is simulated: the worker sleeps until the next arrival and computes in real time.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import torch

import saa_core as saa
from benchmarks.tasks.understanding import BATCH, Ids, policies, sides
from saa_core.data import labelled
from saa_core.files import write_json

RESULTS = Path(__file__).parent.parent / "results"
STEP = 1.06
"""A rate is this many times the last one, unless another step is asked for."""


def arrivals_of(rate: float, seconds: float, burst: int, draw: random.Random) -> list[float]:
    """When texts arrive, in seconds, ``rate`` per second on average.

    Args:
        burst: texts that arrive together on average; how many is drawn from a geometric distribution.
    """
    found, at = list[float](), 0.0
    while at < seconds:
        at += draw.expovariate(rate / burst)
        found.append(at)
        while burst > 1 and draw.random() > 1 / burst:
            found.append(at)
    return found


def serve(
    side: Callable[[list[Any]], object],
    ids: Sequence[Any],
    rate: float,
    limit_ms: float,
    seconds: float,
    seed: int,
    burst: int = 1,
) -> dict[str, float]:
    """Latencies at one rate of arrivals: p50 and p95 in ms, texts answered, mean batch."""
    draw = random.Random(f"load/{seed}/{rate}")
    arrivals = arrivals_of(rate, seconds, burst, draw)
    texts = [draw.choice(ids) for _ in arrivals]
    latencies, batches, done = list[float](), 0, 0
    began = time.perf_counter()
    while done < len(arrivals):
        now = time.perf_counter() - began
        if arrivals[done] > now:
            time.sleep(arrivals[done] - now)
            continue
        end = done
        while end < len(arrivals) and end - done < BATCH and arrivals[end] <= now:
            end += 1
        side(sorted(texts[done:end], key=len))
        finished = time.perf_counter() - began
        latencies += [1000 * (finished - arrival) for arrival in arrivals[done:end]]
        batches, done = batches + 1, end
        if len(latencies) > 50 and statistics.median(latencies[-50:]) > 10 * limit_ms:
            break  # hopelessly behind
    latencies.sort()
    return {
        "rate": rate,
        "p50_ms": latencies[len(latencies) // 2],
        "p95_ms": latencies[int(0.95 * len(latencies))],
        "answered": len(latencies),
        "arrived": len(arrivals),
        "mean_batch": len(latencies) / batches,
    }


def highest(
    side: Callable[[list[Any]], object],
    ids: Sequence[Any],
    start: float,
    limit_ms: float,
    seconds: float,
    seed: int,
    burst: int = 1,
    step: float = STEP,
) -> tuple[float, list[dict[str, float]]]:
    """The highest rate that keeps p95 under the limit, and everything that was tried.

    From ``start`` down until one holds, or up until one does not; each is ``step`` times the last one.
    """
    tried: list[dict[str, float]] = []

    def holds(rate: float) -> bool:
        tried.append(serve(side, ids, rate, limit_ms, seconds, seed, burst))
        return tried[-1]["p95_ms"] <= limit_ms and tried[-1]["answered"] == tried[-1]["arrived"]

    rate = start
    if holds(rate):
        while holds(rate * step):
            rate *= step
        return rate, tried
    while rate > start / 100:
        rate /= step
        if holds(rate):
            return rate, tried
    return 0.0, tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--task", default="sentences", help="shipped task or folder")
    parser.add_argument("--data", help="other texts: a task's name, or a table")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.6, 0.5])
    parser.add_argument("--limit", type=float, default=100.0, help="p95 in ms")
    parser.add_argument("--seconds", type=float, default=6.0, help="of arrivals per rate")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--start", type=float, help="texts per second to begin with")
    parser.add_argument("--out", type=Path, default=RESULTS / "load.json")
    options = parser.parse_args()
    sparse = saa.load(options.model, task=options.task, side="sparse", device="cpu")
    dense = saa.load(options.model, task=options.task, side="dense", device="cpu")
    assert sparse.task is not None
    source = options.data or sparse.task.name
    known = labelled.read(source)
    texts = [example.text for example in known if example.split == "test"]
    ids: Ids = sparse.tokenizer(
        texts, truncation=True, max_length=sparse.task.longest, verbose=False
    )["input_ids"]
    compared = policies(sparse, options.shares)
    what = sides(sparse, dense, compared)
    starts: dict[str, float] = {}
    for name, side in what.items():  # warm up, and guess where to begin
        batch = sorted(ids[:BATCH], key=len)
        side(batch)
        began = time.perf_counter()
        side(batch)
        starts[name] = options.start or 0.8 * BATCH / (time.perf_counter() - began)
    rows: list[dict[str, Any]] = []
    for turn in range(options.repeats):
        for name, side in what.items():
            rate, tried = highest(side, ids, starts[name], options.limit, options.seconds, turn)
            starts[name] = rate or starts[name]
            rows.append(
                {
                    "task": sparse.task.name,
                    "side": name,
                    "repeat": turn,
                    "rate": rate,
                    "limit_ms": options.limit,
                    "tried": tried,
                    "mean_tokens": sum(map(len, ids)) / len(ids),
                    "threads": torch.get_num_threads(),
                }
            )
            write_json(options.out, rows)
            print(f"{name:14} holds {rate:.0f} texts per second", flush=True)
    for name, policy in compared.items():
        print(f"{policy}: {held(rows, name):.2f} times the rate of dense")
    plot(rows, options.out.with_suffix(".svg"))


def held(rows: list[dict[str, Any]], side: str) -> float:
    """Median rate of a side against that of the better dense form."""
    rates: dict[str, list[float]] = {}
    for row in rows:
        rates.setdefault(row["side"], []).append(row["rate"])
    medians = {name: statistics.median(found) for name, found in rates.items()}
    best = max(rate for name, rate in medians.items() if name.startswith("dense"))
    return medians[side] / best


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """p95 over the rate of arrivals, everything that was tried."""
    values = [
        {
            "side": f"{'' if 'dense' in row['side'] else 'SAA, '}{row['side']}",
            "rate": tried["rate"],
            "p95": tried["p95_ms"],
        }
        for row in rows
        for tried in row["tried"]
        if tried["p95_ms"] < 4 * row["limit_ms"]
    ]
    points = (
        alt.Chart(alt.Data(values=values))
        .mark_point(filled=True)
        .encode(
            x=alt.X("rate:Q", title="texts per second"),
            y=alt.Y("p95:Q", title="95th percentile of latency, ms"),
            color=alt.Color("side:N", title=None, legend=alt.Legend(orient="bottom")),
        )
    )
    limit = alt.Chart(alt.Data(values=[{"limit": rows[0]["limit_ms"]}]))
    (points + limit.mark_rule(strokeDash=[4, 4]).encode(y="limit:Q")).properties(
        width=420, height=260
    ).save(file)


if __name__ == "__main__":
    main()
