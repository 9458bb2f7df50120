"""What a policy costs on each kind of text, by length: the rows from which shipped defaults are chosen.

    python -m benchmarks.quality.generalise --adapter saa-joint --left-out dialogue list

The held-out part of every kind, windows spread evenly over it, several masses on the same windows. Every
increase is counted from the original dense model. Kinds that the gates were not trained on are named by
``--left-out`` and marked in the rows. What each window lost stays in the rows, so that intervals and
defaults can be made again. Resumable: what stands in the file is not measured again.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import torch

import saa_core as saa
from benchmarks.resume import read_rows
from saa_core.data import corpus
from saa_core.files import write_json
from saa_core.train.evaluate import interval, loss, percent, spread_windows

RESULTS = Path(__file__).parent.parent / "results"
LENGTHS = (512, 1024, 2048, 4096, 8192)
MASSES = (0.87, 0.9, 0.93, 0.95, 0.97)
MANY, FEW = 12, 6
"""Windows per kind up to 2,048 tokens, and above."""
KEY = ("model", "kind", "length", "block", "mass", "dtype")


def windows_at(length: int) -> int:
    return MANY if length <= 2048 else FEW


def held_out(kinds: Sequence[str]) -> dict[str, str]:
    """The held-out texts of kinds, by kind; one kind's short documents are joined."""
    found = corpus.documents([f"{corpus.KIND}{kind}" for kind in kinds])
    return corpus.join_documents(found, "heldout", by="kind")


def measure(
    model: saa.Model,
    policy: saa.Policy,
    windows: Sequence[torch.Tensor],
    dense: Sequence[float],
) -> dict[str, Any]:
    """What each window lost (nats per token) and how many pairs it kept, and the means."""
    added, densities = [], []
    for tokens, before in zip(windows, dense, strict=True):
        call = saa.Call(policy, record="summary")
        added.append(loss(model, tokens, call) - before)
        layers = torch.stack([record.density for record in call.layers.values()])
        densities.append(float(layers.mean()))
    lo, hi = interval(added)
    return {
        "windows": len(windows),
        "density": sum(densities) / len(densities),
        "ppl_increase_pct": percent(sum(added) / len(added)),
        "lo": percent(lo),
        "hi": percent(hi),
        "added_nats": [round(value, 6) for value in added],
    }


def todo(options: argparse.Namespace, done: set[tuple[Any, ...]], model: str) -> Iterator[Any]:
    """What is not in the rows yet: (length, kind, masses)."""
    for length in options.lengths:
        for kind in options.kinds:
            masses = [
                mass
                for mass in options.masses
                if (model, kind, length, tuple(options.block), mass, options.dtype) not in done
            ]
            if masses:
                yield length, kind, masses


def at_one_percent(rows: Sequence[dict[str, Any]]) -> float | None:
    """The density at which a kind loses 1 %, between the two points around it; None if there are none.

    Args:
        rows: one kind and length, several masses.
    """
    points = sorted((row["density"], row["ppl_increase_pct"]) for row in rows)
    for (sparser, more), (denser, less) in itertools.pairwise(points):
        if more >= 1.0 >= less:
            share = 0.0 if more == less else (more - 1.0) / (more - less)
            return float(sparser + share * (denser - sparser))
    return None


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """A panel per length, a line per kind: increase against density; left out kinds are dashed."""
    drawn = [
        {key: row[key] for key in ("kind", "density", "ppl_increase_pct", "length", "left_out")}
        for row in rows
    ]
    chart = (
        alt.Chart(alt.Data(values=drawn))
        .mark_line(point=True, clip=True)
        .encode(
            x=alt.X(
                "density:Q",
                title="density: kept / allowed pairs",
                axis=alt.Axis(format="%"),
            ),
            y=alt.Y(
                "ppl_increase_pct:Q",
                title="perplexity increase over dense, %",
                scale=alt.Scale(domain=[-1, 4]),
            ),
            color=alt.Color("kind:N", title=None),
            strokeDash=alt.StrokeDash("left_out:N", title="not trained on"),
            order="density:Q",
        )
        .properties(width=260, height=230)
        .facet("length:O", columns=3, title="tokens")
    )
    chart.save(file)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--gates", help="gate folder; the shipped one by default")
    parser.add_argument("--adapter", help="shipped adapter or folder; the frozen model without one")
    parser.add_argument("--kinds", nargs="+", default=sorted(corpus.kinds()))
    parser.add_argument("--left-out", nargs="+", default=[], help="kinds not trained on")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--masses", type=float, nargs="+", default=list(MASSES))
    parser.add_argument("--block", type=int, nargs=2, default=[32, 16])
    parser.add_argument("--windows", type=int, help="fewer windows, to try")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--minutes", type=float, help="stop after this long; go on another time")
    parser.add_argument("--out", type=Path, default=RESULTS / "generalise.json")
    options = parser.parse_args(arguments)
    original = saa.load(options.model, device="cpu", dtype=options.dtype)
    model = original
    if options.adapter or options.gates:
        given = {"adapter": options.adapter, "gates": options.gates}
        model = saa.load(options.model, device="cpu", dtype=options.dtype, **given)
    name = f"{model.spec.name} {model.spec.gate}"
    rows = read_rows(options.out)
    done = {tuple(tuple(v) if isinstance(v := row[k], list) else v for k in KEY) for row in rows}
    started = time.monotonic()
    texts: dict[str, str] = {}
    for length, kind, masses in todo(options, done, name):
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            print("time is up; run again to go on", file=sys.stderr)
            return
        if kind not in texts:
            texts |= held_out([kind])
        windows = spread_windows(
            original, texts[kind], length, options.windows or windows_at(length)
        )
        dense = [loss(original, tokens, saa.Call()) for tokens in windows]
        for mass in masses:
            policy = saa.Policy(
                mass=mass,
                granularity="block",
                block=tuple(options.block),
                fallback="never",
            )
            about = {
                "model": name,
                "kind": kind,
                "length": length,
                "block": options.block,
            }
            about |= {
                "mass": mass,
                "dtype": options.dtype,
                "left_out": kind in options.left_out,
            }
            rows.append(about | measure(model, policy, windows, dense))
            write_json(options.out, rows)
            row = rows[-1]
            print(
                f"{kind:10} {length:5} mass {mass:.2f} density {row['density']:.3f} "
                f"ppl {row['ppl_increase_pct']:+.2f} % ({row['lo']:+.2f} to {row['hi']:+.2f})",
                flush=True,
            )
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
