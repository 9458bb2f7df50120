"""What a policy costs on each kind of text, by length: the rows from which shipped defaults are chosen.

    python -m benchmarks.quality.generalise --adapter saa-joint --left-out dialogue law speech encyclopedia
    python -m benchmarks.quality.generalise --adapter saa-joint --rows runs/rows.json
    saa masses --model "smollm2 + saa-joint" --rows runs/rows.json --out FOLDER   # chooses the default from them

The held-out part of every kind, windows spread evenly over it, several masses on the same windows, the end
of each read densely as by default. Every increase is counted from the original dense model. Kinds that the
gates were not trained on are named by ``--left-out`` and marked in the rows; defaults are chosen on them.
What each window lost stays in the rows. Resumable: what stands in the file is not measured again, unless
``--half-width`` asks for a narrower interval: then kinds that differ more from window to window are measured
anew on as many windows as their spread asks for (never by what they lost), as far as the text goes.
"""

import argparse
import functools
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import altair as alt

import saa_core as saa
from benchmarks.resume import read_rows
from saa_core.certify.masses import MassRow
from saa_core.data import corpus
from saa_core.files import write_json
from saa_core.train.evaluate import on_windows, percent
from saa_core.types import PAIR_LIMIT

RESULTS = Path(__file__).parent.parent / "results"
LENGTHS = (512, 1024, 2048, 4096, 8192)
MASSES = (0.87, 0.9, 0.93, 0.95, 0.97)
MANY, FEW = 16, 8
"""Windows per kind up to 2,048 tokens, and above."""
CHARACTERS = 4.4
"""Of a token, at least: how many windows a text holds."""
MEASURED = ("kind", "length", "block", "mass", "increases", "density")
"""The fields of a row that are a :class:`MassRow`; the others say of what it is."""


def windows_at(length: int) -> int:
    return MANY if length <= 2048 else FEW


@functools.cache
def held_out(kind: str) -> str:
    """The held-out texts of a kind, short documents joined."""
    found = corpus.documents([f"{corpus.KIND}{kind}"])
    return corpus.join_documents(found, "heldout", by="kind")[kind]


def policy_at(mass: float, length: int, block: Sequence[int]) -> saa.Policy:
    """Decided as by default at that length, and never left to dense."""
    if length <= PAIR_LIMIT:
        return saa.Policy(mass=mass, granularity="pair", fallback="never")
    sizes = (block[0], block[1])
    return saa.Policy(mass=mass, granularity="block", block=sizes, fallback="never")


def measure(
    model: saa.Model,
    original: saa.Model,
    text: str,
    length: int,
    policies: Sequence[saa.Policy],
    windows: int,
) -> list[dict[str, Any]]:
    """Per policy what each window lost (nats per token), and the mean density."""
    _, added, densities = on_windows(
        model, text, length, policies, windows=windows, baseline=original
    )
    return [
        {
            "length": length,
            "block": list(policy.block_for(length)),
            "mass": policy.mass,
            "density": sum(density) / len(density),
            "increases": [round(value, 6) for value in increases],
        }
        for policy, increases, density in zip(policies, added, densities, strict=True)
    ]


def measured(row: dict[str, Any]) -> MassRow:
    return MassRow(**{name: row[name] for name in MEASURED})


def increase(row: dict[str, Any]) -> tuple[float, float, float]:
    """Mean, lower and upper end of the 95 % interval, percent."""
    low, high = measured(row).interval
    return percent(fmean(row["increases"])), 100 * low, 100 * high


def at_one_percent(rows: Sequence[dict[str, Any]]) -> float | None:
    """The density at which a kind loses 1 %, between the two points around it; None if there are none.

    Args:
        rows: one kind and length, several masses.
    """
    points = sorted((row["density"], increase(row)[0]) for row in rows)
    for (sparser, more), (denser, less) in itertools.pairwise(points):
        if more >= 1.0 >= less:
            share = 0.0 if more == less else (more - 1.0) / (more - less)
            return float(sparser + share * (denser - sparser))
    return None


def place_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """All masses of a place are measured on the same windows."""
    return row["model"], row["dtype"], row["kind"], row["length"], tuple(row["block"])


def windows_for(rows: Sequence[dict[str, Any]], half_width: float) -> int:
    """Windows that a place needs for a 95 % interval of so many points to each side, by its spread so far."""
    spread = max(100 * stdev(row["increases"]) for row in rows)
    return math.ceil((2.1 * spread / half_width) ** 2)


def todo(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], model: str
) -> Iterator[tuple[int, str, list[float], int]]:
    """What is not in the rows yet, or too wide: (length, kind, masses, windows)."""
    for length, kind in itertools.product(options.lengths, options.kinds):
        block = policy_at(0.5, length, options.block).block_for(length)
        place = (model, options.dtype, kind, length, tuple(block))
        here = [row for row in rows if place_of(row) == place]
        masses = [mass for mass in options.masses if mass not in {row["mass"] for row in here}]
        count = options.windows or windows_at(length)
        if here:
            count = max(len(row["increases"]) for row in here)
            if options.half_width:
                most = len(held_out(kind)) // (CHARACTERS * length)
                wanted = min(windows_for(here, options.half_width), most)
                if wanted > 1.2 * count:
                    count, masses = wanted, sorted({*options.masses, *(r["mass"] for r in here)})
        if masses:
            yield length, kind, masses, count


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """A panel per length, a line per kind: increase against density; left out kinds are dashed."""
    drawn = [
        {key: row[key] for key in ("kind", "density", "length", "left_out")}
        | {"increase": increase(row)[0]}
        for row in rows
    ]
    chart = (
        alt.Chart(alt.Data(values=drawn))
        .mark_line(point=True, clip=True)
        .encode(
            x=alt.X("density:Q", title="density: kept / allowed pairs", axis=alt.Axis(format="%")),
            y=alt.Y(
                "increase:Q",
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


def _title(model: saa.Model) -> str:
    return f"{model.spec.title} {model.spec.gate}"


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
    parser.add_argument(
        "--half-width", type=float, help="measure again what is known less well, in points"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--minutes", type=float, help="stop after this long; go on another time")
    parser.add_argument("--rows", type=Path, help="measure nothing; write what saa masses takes")
    parser.add_argument("--out", type=Path, default=RESULTS / "generalise.json")
    options = parser.parse_args(arguments)
    original = saa.load(options.model, device="cpu", dtype=options.dtype)
    model = original
    if options.adapter or options.gates:
        given = {"adapter": options.adapter, "gates": options.gates}
        model = saa.load(options.model, device="cpu", dtype=options.dtype, **given)
    rows = read_rows(options.out)
    if options.rows:
        own = [row for row in rows if row["model"] == _title(model) and row["left_out"]]
        write_json(options.rows, [asdict(measured(row)) for row in own])
        return
    started = time.monotonic()
    for length, kind, masses, count in list(todo(options, rows, _title(model))):
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            print("time is up; run again to go on", file=sys.stderr)
            return
        policies = [policy_at(mass, length, options.block) for mass in masses]
        about = {"model": _title(model), "dtype": options.dtype, "kind": kind}
        about |= {"left_out": kind in options.left_out}
        found = measure(model, original, held_out(kind), length, policies, count)
        again = {(*place_of(about | row), row["mass"]) for row in found}
        rows = [row for row in rows if (*place_of(row), row["mass"]) not in again]
        for row in found:
            rows.append(about | row)
            mean, low, high = increase(rows[-1])
            print(
                f"{kind:12} {length:5} mass {row['mass']:.2f} density {row['density']:.3f} "
                f"ppl {mean:+.2f} % ({low:+.2f} to {high:+.2f})",
                flush=True,
            )
        write_json(options.out, rows)
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
