"""Perplexity increase against density: the learned gate, known rules and the oracle, in one engine.

    python -m benchmarks.quality.frontier           # writes benchmarks/results/frontier.json and .svg

Same model, windows, blocks, forced pairs, rule and kernel for all; only the scores differ (see
baselines.py). "sink + window" is no scorer: it keeps the first and the nearest keys only. "SAA, joint"
is the model with the adapter that was trained with its gates; "adapter alone" is that model dense.
Every increase is counted from the original dense model. Texts are those that no gate was trained on.
Resumable: what stands in the file is not measured again.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import altair as alt
import torch

import saa_core as saa
from benchmarks.quality.baselines import SCORERS, restore, swap
from benchmarks.resume import read_rows
from saa_core.data import corpus
from saa_core.families import family_of
from saa_core.files import write_json
from saa_core.train.evaluate import interval, loss, percent, spread_windows

RESULTS = Path(__file__).parent.parent / "results"
LEARNED = "SAA, distilled"
JOINT = "SAA, joint"
ADAPTER = "adapter alone"
WINDOW = "sink + window"
METHODS = (LEARNED, JOINT, ADAPTER, *SCORERS, WINDOW)
AIMS = {
    JOINT: (0.75, 0.8, 0.85, 0.9, 0.93, 0.95),
    ADAPTER: (1.0,),
    LEARNED: (0.85, 0.9, 0.93, 0.95, 0.97),
    "oracle": (0.75, 0.85, 0.9, 0.95),
    "mean keys": (0.8, 0.9, 0.95, 0.98),
    "antidiagonal": (0.8, 0.9, 0.95, 0.98),
    "upper bound": (0.8, 0.9, 0.95, 0.98),
    "random": (0.25, 0.5, 0.75),
    WINDOW: (0.1, 0.2, 0.35, 0.5),
}
"""Mass asked of each method; for sink + window the share of the text that the window covers."""


FEW = {
    JOINT: (0.85, 0.9, 0.93, 0.95),
    ADAPTER: (1.0,),
    LEARNED: (0.9, 0.93, 0.95),
    "oracle": (0.85, 0.9),
    "mean keys": (0.8, 0.9, 0.95),
    "antidiagonal": (0.8, 0.9, 0.95),
    "upper bound": (0.98,),
    "random": (0.75,),
    WINDOW: (0.35, 0.5),
}
"""Those of AIMS that lie around 1 %, for lengths at which a point costs minutes."""


def policy(method: str, aim: float, length: int) -> saa.Policy:
    if method == WINDOW:
        return saa.Policy(mass=1e-9, granularity="block", local=max(1, int(aim * length)))
    return saa.Policy(mass=aim, granularity="block")


def measure(
    model: saa.Model, method: str, aim: float, batches: list[torch.Tensor], dense: list[float]
) -> dict[str, Any]:
    """One point: losses window by window against dense, and density."""
    modules = family_of(model.hf).attentions(model.hf)
    gates = swap(modules, method) if method in SCORERS else None
    added, densities = [], []
    try:
        for tokens, before in zip(batches, dense, strict=True):
            call = saa.Call(policy(method, aim, tokens.shape[1]), record="summary")
            added.append(loss(model, tokens, call) - before)
            layers = torch.stack([record.density for record in call.layers.values()])
            densities.append(float(layers.mean()))
    finally:
        if gates is not None:
            restore(modules, gates)
    lo, hi = interval(added)
    return {
        "density": sum(densities) / len(densities),
        "ppl_increase_pct": percent(sum(added) / len(added)),
        "lo": percent(lo),
        "hi": percent(hi),
        "added_nats": added,
    }


def curve(rows: list[dict[str, Any]], method: str, length: int) -> list[tuple[float, float]]:
    """(density, perplexity increase in percent) of a method, mean over texts, densest first.

    Only aims that were measured on every text count, so that the points of a curve compare.
    """
    by_aim: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if (row["method"], row["length"]) == (method, length):
            by_aim.setdefault(row["aim"], []).append(row)
    texts = max(map(len, by_aim.values()), default=0)
    means = [
        tuple(
            sum(row[key] for row in found) / len(found) for key in ("density", "ppl_increase_pct")
        )
        for found in by_aim.values()
        if len(found) == texts
    ]
    return sorted(((density, increase) for density, increase in means), reverse=True)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """A panel per text and length; lower and further left is better."""
    titled = [row | {"panel": f"{row['text']}, {row['length']:,} tokens"} for row in rows]
    chart = (
        alt.Chart(alt.Data(values=titled))
        .mark_line(point=True, clip=True)
        .encode(
            x=alt.X("density:Q", title="density: kept / allowed pairs", axis=alt.Axis(format="%")),
            y=alt.Y(
                "ppl_increase_pct:Q",
                title="perplexity increase over dense, %",
                scale=alt.Scale(domain=[0, 12]),
            ),
            color=alt.Color("method:N", title=None, sort=list(METHODS)),
            order="density:Q",
        )
        .properties(width=260, height=230)
        .facet("panel:N", columns=2)
        .resolve_scale(x="shared")
    )
    chart.save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--gates", help="gate folder; the shipped one by default")
    parser.add_argument("--adapter", help="shipped adapter or folder; left out without one")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--texts", nargs="+", default=["austen", "wikipedia"])
    parser.add_argument("--few", action="store_true", help="only the aims around 1 percent")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--minutes", type=float, help="stop after this long; go on another time")
    parser.add_argument("--out", type=Path, default=RESULTS / "frontier.json")
    options = parser.parse_args()
    model = saa.load(options.model, gates=options.gates, device="cpu")
    joint = None
    if options.adapter:
        joint = saa.load(options.model, adapter=options.adapter, device="cpu")
    methods = [m for m in options.methods if joint is not None or m not in (JOINT, ADAPTER)]
    texts = corpus.join_documents(corpus.documents(options.texts), "heldout")
    rows = read_rows(options.out)
    done = {(row["method"], row["aim"], row["length"], row["text"]) for row in rows}
    started = time.monotonic()
    for length in options.lengths:
        for name, text in texts.items():
            todo = [
                (method, aim)
                for method in methods
                for aim in (FEW if options.few else AIMS)[method]
                if (method, aim, length, name) not in done
            ]
            if not todo:
                continue
            batches = spread_windows(model, text, length, options.windows)
            dense = [loss(model, tokens, saa.Call()) for tokens in batches]
            for method, aim in todo:
                if options.minutes and time.monotonic() - started > 60 * options.minutes:
                    print("time is up; run again to go on", file=sys.stderr)
                    return
                used = joint if joint is not None and method in (JOINT, ADAPTER) else model
                about = {"method": method, "aim": aim, "length": length, "text": name}
                about |= {"gate": used.spec.gate, "windows": len(batches)}
                rows.append(about | measure(used, method, aim, batches, dense))
                write_json(options.out, rows)
                row = rows[-1]
                print(
                    f"{name:10} {length:5} {method:15} {aim:.2f} density {row['density']:.3f} "
                    f"ppl {row['ppl_increase_pct']:+.2f} % ({row['lo']:+.2f} to {row['hi']:+.2f})",
                    flush=True,
                )
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
