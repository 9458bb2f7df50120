"""Is prefill really faster? Attention and whole forward pass against the best dense configuration.

    python -m benchmarks.speed.prefill            # writes benchmarks/results/prefill.json and .svg

float32 and bfloat16 weights. Dense is timed as Transformers does it and, with bfloat16 weights, with
its attention in float32 too; the faster one is what SAA is compared with. The policy of each length is
the cheapest point of frontier.json that costs at most 1 % perplexity. Rounds are interleaved in one
process; gate, rule and mask building are inside the timing, and shown alone.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import altair as alt
import torch

import saa_core as saa
from benchmarks.pictures import ratio_chart
from benchmarks.quality.frontier import JOINT, LEARNED
from saa_core.files import write_json

RESULTS = Path(__file__).parent.parent / "results"
LIMIT_PCT = 1.0
DTYPES = ("float32", "bfloat16")
AS_IS = None
UPCAST = saa.Policy(fallback="dense", crossover=10**9)
"""Dense attention in float32, whatever the weights are."""


def cheapest(rows: list[dict[str, Any]], method: str, length: int) -> dict[str, Any] | None:
    """Lowest density of a method at a length whose increase, mean over texts, is within the limit."""
    by_aim: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if (row["method"], row["length"]) == (method, length):
            by_aim.setdefault(row["aim"], []).append(row)
    points = [
        {
            "aim": aim,
            "density": sum(row["density"] for row in found) / len(found),
            "ppl_increase_pct": sum(row["ppl_increase_pct"] for row in found) / len(found),
        }
        for aim, found in by_aim.items()
    ]
    within = [point for point in points if point["ppl_increase_pct"] <= LIMIT_PCT]
    return min(within, key=lambda point: point["density"], default=None)


def measure(model: saa.Model, length: int, aim: float, repeats: int) -> dict[str, Any]:
    """One row without quality: ratios to the fastest dense form, and raw samples of all sides."""
    policy = saa.Policy(mass=aim, granularity="block", fallback="never")
    dtype = str(model.dtype).removeprefix("torch.")
    sides: tuple[saa.Policy | None, ...] = (AS_IS, policy)
    if dtype != "float32":
        sides = (AS_IS, UPCAST, policy)
    *dense, sparse = saa.measure(model, (length,), sides, repeats=repeats)
    best = min(dense, key=lambda timing: timing.median_ms)
    attention = sparse.ratio(best, "attention_ms")
    prefill = sparse.ratio(best)
    assert sparse.density is not None
    return {
        "length": length,
        "dtype": dtype,
        "policy": str(policy),
        "density_timed": sparse.density,
        "attention_ratio": attention[1],
        "attention_ratio_quartiles": [attention[0], attention[2]],
        "prefill_ratio": prefill[1],
        "prefill_ratio_quartiles": [prefill[0], prefill[2]],
        "efficiency": attention[1] * sparse.density,
        "best_dense": "attention in float32" if best is not dense[0] else "as Transformers does it",
        "samples_ms": {
            "dense": dense[0].samples_ms,
            "dense, attention in float32": dense[-1].samples_ms if len(dense) > 1 else None,
            "saa": sparse.samples_ms,
        },
        "attention_ms": {"dense": best.attention_ms, "saa": sparse.attention_ms},
        "stages_ms": {"dense": best.stages_ms, "saa": sparse.stages_ms},
        "peak_bytes": {"dense": best.peak_bytes, "saa": sparse.peak_bytes},
        "compile_ms": sparse.compile_ms,
        "kernel": sparse.kernel,
        "threads": sparse.threads,
        "device": sparse.device,
        "versions": sparse.versions,
    }


def exponent(rows: list[dict[str, Any]]) -> float | None:
    """Slope of log(attention time) over log(length): 2 is quadratic."""
    points = [
        (math.log(row["length"]), math.log(statistics.median(row["attention_ms"]["saa"])))
        for row in rows
    ]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return over / sum((x - mean_x) ** 2 for x, _ in points)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Times faster by length, and where the attention's time goes."""
    points, stages = [], []
    for row in rows:
        for what in ("attention", "prefill"):
            low, high = row[f"{what}_ratio_quartiles"]
            points.append(
                {"tokens": row["length"], "what": f"{what}, {row['dtype']}"}
                | {"low": low, "x": row[f"{what}_ratio"], "high": high}
            )
        if row["dtype"] == "float32":
            whole = sum(row["stages_ms"]["dense"].values())
            stages += [
                {"tokens": row["length"], "side": side, "stage": stage, "share": ms / whole}
                for side, found in row["stages_ms"].items()
                for stage, ms in found.items()
            ]
    ratio = ratio_chart(points, "best dense", 320)
    bars = (
        alt.Chart(alt.Data(values=stages))
        .mark_bar()
        .encode(
            x=alt.X("side:N", title=None, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("share:Q", title="attention, share of dense", axis=alt.Axis(format="%")),
            color=alt.Color("stage:N", title="stage", scale=alt.Scale(scheme="tableau10")),
            column=alt.Column("tokens:O", title="tokens (float32)"),
        )
        .properties(width=60, height=260)
    )
    alt.hconcat(ratio, bars).resolve_scale(color="independent").save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", help="of the model; its points of the frontier are used then")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frontier", type=Path, default=RESULTS / "frontier.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "prefill.json")
    options = parser.parse_args()
    frontier = json.loads(options.frontier.read_text())
    method = JOINT if options.adapter else LEARNED
    rows: list[dict[str, Any]] = []
    for dtype in options.dtypes:
        model = saa.load(
            options.model, adapter=options.adapter, dtype=getattr(torch, dtype), device="cpu"
        )
        for length in options.lengths:
            point = cheapest(frontier, method, length)
            if point is None:
                print(
                    f"{length} tokens: {method} has no point within {LIMIT_PCT} %", file=sys.stderr
                )
                continue
            row = measure(model, length, point["aim"], options.repeats)
            row |= {"method": method, "density": point["density"]}
            row |= {"ppl_increase_pct": point["ppl_increase_pct"]}
            rows.append(row)
            write_json(options.out, rows)
            print(
                f"{length:5} {dtype:8} {row['policy']} density {row['density']:.3f} at "
                f"{row['ppl_increase_pct']:+.2f} %: attention {row['attention_ratio']:.2f}x, prefill "
                f"{row['prefill_ratio']:.2f}x, efficiency {row['efficiency']:.2f} ({row['best_dense']})",
                flush=True,
            )
        slope = exponent([row for row in rows if row["dtype"] == dtype])
        if slope is not None:
            print(f"{dtype}: attention time grows with length to the power {slope:.2f}")
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
