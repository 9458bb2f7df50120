"""Carries measured figures to where people read them; measures nothing itself.

    python benchmarks/publish.py

From the JSON files of benchmarks/results into assets/gates/NAME/gates.json (default policy, evaluation,
crossover), into the figures of the shipped presentations, and into the tables between the markers of
README.md. How true predicted mass is comes from the gates' folders.
"""

import argparse
import itertools
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from decks import write_measured
from frontier import ADAPTER, JOINT, LEARNED, METHODS, WINDOW, curve
from quality import LIMIT_PCT, TITLES, choose
from understanding import SHARES

import saa_core as saa
from saa_core.files import write_json, write_text
from saa_core.gate_files import read_gates
from saa_core.measure import crossover

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def machine(timing: saa.Timing) -> str:
    """What the timings were taken on, in a few words."""
    versions = timing.versions
    return (
        f"{timing.threads} {platform.machine()} cores ({versions['cpu']}), {timing.device}, "
        f"{timing.dtype}, torch {versions['torch']}"
    )


def quality_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| text | tokens | mass | density | perplexity against dense (95 % interval) | windows |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda row: (row["text"], row["length"], -row["mass"])):
        lines.append(
            f"| {TITLES.get(row['text'], row['text'])} | {row['length']:,} | {row['mass']:g} "
            f"| {row['density']:.2f} | {row['ppl_increase_pct']:+.2f} % "
            f"({row['lo']:+.2f} to {row['hi']:+.2f}) | {row['windows']} |"
        )
    return "\n".join(lines)


def latency_table(timings: list[saa.Timing]) -> str:
    lines = [
        "| tokens | kernel | density | attention, times faster (quartiles) "
        "| whole prefill, times faster (quartiles) |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for dense, sparse in zip(timings[::2], timings[1::2], strict=True):
        ratios = [sparse.ratio(dense, field) for field in ("attention_ms", "samples_ms")]
        cells = " | ".join(f"{mid:.2f} ({low:.2f} to {high:.2f})" for low, mid, high in ratios)
        lines.append(f"| {dense.length:,} | {sparse.kernel} | {sparse.density:.2f} | {cells} |")
    return "\n".join(lines)


def encoder_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| text | tokens | decided in | mass | density | attention kept | cosine (95 % interval) |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {TITLES.get(row['text'], row['text'])} | {row['length']:,} "
            f"| {row['granularity']}s | {row['mass']:g} | {row['density']:.2f} "
            f"| {row['retained_mass']:.3f} | {row['cosine']:.4f} "
            f"({row['lo']:.4f} to {row['hi']:.4f}) |"
        )
    return "\n".join(lines)


def frontier_table(rows: list[dict[str, Any]]) -> str:
    """Density that each method needs for at most 1 % perplexity, by length."""
    lengths = sorted({row["length"] for row in rows})
    lines = [
        f"| pairs needed at +{LIMIT_PCT:g} % | " + " | ".join(f"{n:,}" for n in lengths) + " |",
        "| --- |" + " ---: |" * len(lengths),
    ]
    for method in METHODS:
        if method == ADAPTER or not any(row["method"] == method for row in rows):
            continue
        cells = [needed(curve(rows, method, length), LIMIT_PCT) for length in lengths]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


RULES = ("mean keys", "antidiagonal", "upper bound", "random", WINDOW)
"""Ways of choosing that need no training."""


def equal_density_table(rows: list[dict[str, Any]]) -> str:
    """What each method costs at the density at which the joint model costs 1 %, by length.

    Only methods that were measured on the same texts as the joint model are compared.
    """
    lengths = sorted({row["length"] for row in rows})
    lines = [
        "| tokens | density | SAA, joint | SAA, distilled | oracle | best rule without training "
        "| joint against it |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for length in lengths:
        density = density_at(curve(rows, JOINT, length), LIMIT_PCT)
        if density is None:
            continue
        texts = texts_of(rows, JOINT, length)
        costs = {
            m: cost_at(curve(rows, m, length), density)
            for m in METHODS
            if texts_of(rows, m, length) == texts
        }
        rules = {m: cost for m in RULES if (cost := costs.get(m)) is not None}
        best = min(rules, key=lambda m: rules[m], default=None)
        found = [costs.get(m) for m in SHOWN]
        cells = ["–" if cost is None else f"{cost:+.2f} %" for cost in found]
        if best is None or rules[best] <= 0:
            cells += ["–", "–"]
        else:
            ratio = LIMIT_PCT / rules[best]
            cells += [f"{rules[best]:+.2f} % ({best})", f"{ratio:.2f} x"]
        lines.append(f"| {length:,} | {density:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def texts_of(rows: list[dict[str, Any]], method: str, length: int) -> set[str]:
    return {row["text"] for row in rows if (row["method"], row["length"]) == (method, length)}


SHOWN = (JOINT, LEARNED, "oracle")


def cost_at(points: list[tuple[float, float]], density: float) -> float | None:
    """Perplexity increase at a density, linear between measured points; None outside them.

    Args:
        points: (density, increase in percent), densest first.
    """
    for (dense, low), (sparse, high) in itertools.pairwise(points):
        if sparse <= density <= dense:
            share = (dense - density) / (dense - sparse)
            return low + share * (high - low)
    return None


def density_at(points: list[tuple[float, float]], limit: float) -> float | None:
    """Lowest density within a limit, linear between measured points; None outside them.

    Args:
        points: (density, increase in percent), densest first.
    """
    for (dense, low), (sparse, high) in itertools.pairwise(points):
        if low <= limit < high:
            return dense + (limit - low) / (high - low) * (sparse - dense)
    return None


def needed(points: list[tuple[float, float]], limit: float) -> str:
    """`density_at` for a table; where it lies outside the measured points, on which side."""
    if not points:
        return "–"
    if points[0][1] > limit:
        return f"over {points[0][0]:.2f}"
    found = density_at(points, limit)
    return f"under {points[-1][0]:.2f}" if found is None else f"{found:.2f}"


def retrieval_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| questions | tokens | method | pairs kept | found (95 % interval over texts) | asked |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]

    def place(row: dict[str, Any]) -> tuple[str, int, bool]:
        return row["questions"], row["length"], row["method"] != "dense"

    for row in sorted(rows, key=place):
        name = row["method"] + (f", mass {row['mass']:g}" if row["mass"] else "")
        lines.append(
            f"| {row['questions']} | {row['length']:,} | {name} | {row['density']:.2f} | {100 * row['accuracy']:.1f} % "
            f"({100 * row['lo']:.0f} to {100 * row['hi']:.0f}) | {row['trials']} |"
        )
    return "\n".join(lines)


def prefill_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| tokens | weights | policy | pairs kept | perplexity | attention, times faster "
        "| prefill, times faster | efficiency | peak memory, dense / SAA |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratios = [
            f"{row[f'{what}_ratio']:.2f} ({low:.2f} to {high:.2f})"
            for what in ("attention", "prefill")
            for low, high in [row[f"{what}_ratio_quartiles"]]
        ]
        peaks = [f"{(row['peak_bytes'][side] or 0) / 2**30:.1f}" for side in ("dense", "saa")]
        lines.append(
            f"| {row['length']:,} | {row['dtype']} | {row['policy']} | {row['density']:.2f} "
            f"| {row['ppl_increase_pct']:+.2f} % | {ratios[0]} | {ratios[1]} "
            f"| {row['efficiency']:.2f} | {' / '.join(peaks)} GiB |"
        )
    return "\n".join(lines)


def understanding_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| task | tokens asked | dense asked | operations | accuracy | dense | difference (95 % interval) "
        "| 32 at a time, times faster | one at a time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    own = [row for row in rows if row["data"] == row["task"] and row["seed"] == 0]
    for row in own:
        low, high = (100 * row[f"difference_{end}"] for end in ("lo", "hi"))
        times = [
            f"{row[name]:.2f} ({row[quartiles][0]:.2f} to {row[quartiles][1]:.2f})"
            for name, quartiles in (
                ("throughput_ratio_b32", "throughput_quartiles"),
                ("latency_ratio_b1", "latency_quartiles"),
            )
        ]
        lines.append(
            f"| {row['task']} | {row['tokens']:g}{', the default' if row['default'] else ''} "
            f"| {100 * row['asked']:.0f} % | {100 * row['flops_share']:.0f} % "
            f"| {100 * row['accuracy']:.1f} % | {100 * row['dense_accuracy']:.1f} % "
            f"| {100 * (row['accuracy'] - row['dense_accuracy']):+.1f} ({low:+.1f} to {high:+.1f}) "
            f"| {times[0]} | {times[1]} |"
        )
    return "\n".join(lines)


def seeds_table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds of the gates, then over tasks: work and accuracy against dense."""
    lines = [
        "| tokens asked | tasks | seeds of the gates | operations | accuracy against dense, points "
        "| the worst task |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    own = [row for row in rows if row["data"] == row["task"]]
    asked: dict[str, Callable[[dict[str, Any]], bool]] = {
        f"{share:g}": lambda row, share=share: row["tokens"] == share and not row["margin"]  # type: ignore[misc]
        for share in SHARES
    }
    asked["each task's default"] = lambda row: row["default"]
    for name, fits in asked.items():
        by_task: dict[str, list[dict[str, Any]]] = {}
        for row in filter(fits, own):
            by_task.setdefault(row["task"], []).append(row)
        work, lost = {}, {}
        for task, found in by_task.items():
            work[task] = mean([row["flops_share"] for row in found])
            lost[task] = 100 * mean([row["accuracy"] - row["dense_accuracy"] for row in found])
        worst = min(lost, key=lambda task: lost[task])
        counts = sorted({len(found) for found in by_task.values()})
        lines.append(
            f"| {name} | {len(by_task)} | {' to '.join(map(str, sorted({counts[0], counts[-1]})))} "
            f"| {100 * mean(work.values()):.0f} % | {mean(lost.values()):+.2f} "
            f"| {worst} ({lost[worst]:+.1f}) |"
        )
    return "\n".join(lines)


def trust_table(found: dict[str, Any]) -> str:
    """True missed mass of requests, with and without guard, by kind of text and of damage."""
    limit = 100 * found["limit"]
    lines = [
        f"| texts, damages | requests | over {limit:g} % without guard (worst) "
        "| with guard (worst) | pairs kept, without / with | guard stepped in | all in full |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in (*found["requests"], *found["damages"]):
        damage = row.get("damage")
        name = row.get("text") or f"gates: {DAMAGE_TITLES.get(damage, damage)}"
        groups.setdefault(TITLES.get(name, name), []).append(row)
    for name, rows in groups.items():
        cells = []
        for side in ("blind", "guarded"):
            missed = [100 * row[side]["missed"] for row in rows]
            cells.append(f"{sum(value > limit for value in missed)} ({max(missed):.1f} %)")
        kept = [mean(row[side]["density"] for row in rows) for side in ("blind", "guarded")]
        stepped = sum(bool(row["guarded"]["events"]) for row in rows)
        full = sum(row["guarded"]["density"] == 1.0 for row in rows)
        lines.append(
            f"| {name} | {len(rows)} | {cells[0]} | {cells[1]} | {kept[0]:.2f} / {kept[1]:.2f} "
            f"| {stepped} | {full} |"
        )
    return "\n".join(lines)


DAMAGE_TITLES = {"nan": "not a number", "scaled": "times 10,000", "swapped": "layers swapped"}


def reliability_table(models: dict[str, Path]) -> str:
    """From the gates' own folders, where `saa reliability` has stored what it measured."""
    lines = [
        "| gate | decided in | tokens | rows | error, all rows | mean over heads | worst head |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, folder in models.items():
        for found in read_gates(folder).reliability:
            sides = found.before, found.after
            heads = [[error for layer in side.heads for error in layer] for side in sides]
            figures = (
                [side.error for side in sides],
                [mean(side) for side in heads],
                [max(side) for side in heads],
            )
            lines.append(
                f"| {name} | {'pairs' if found.pairwise else 'blocks'} "
                f"| {', '.join(f'{length:,}' for length in found.about['lengths'])} "
                f"| {sum(each.rows for each in found.after.bins):,} "
                + " ".join(f"| {100 * own:.2f} → {100 * now:.2f}" for own, now in figures)
                + " |"
            )
    return "\n".join(lines)


def publish_encoder(gates: Path) -> list[dict[str, Any]]:
    """Writes the evaluation of an encoder's gates beside them; returns the rows to show."""
    rows = json.loads((RESULTS / "encoder.json").read_text())
    about = json.loads((gates / "gates.json").read_text())
    shown = [row for row in rows if row["mass"] == about["policy"]["mass"]]
    about["evaluation"] = {"command": "python benchmarks/encoder.py", "quality": shown}
    write_json(gates / "gates.json", about)
    return shown


def fill(text: str, name: str, table: str) -> str:
    """Replaces what stands between the markers of that name."""
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    head, rest = text.split(start, 1)
    tail = rest.split(end, 1)[1]
    return f"{head}{start}\n{table}\n{end}{tail}"


def publish_gates(
    gates: Path, rows: list[dict[str, Any]], command: str, timings: list[saa.Timing] | None = None
) -> float:
    """Writes default policy and evaluation of a language model's gates; returns the default mass."""
    mass = choose(rows)
    if mass is None:
        raise SystemExit(f"{gates}: no mass stays within {LIMIT_PCT} % at every length and text")
    about = json.loads((gates / "gates.json").read_text())
    about["policy"]["mass"] = mass
    about["evaluation"] = {
        "command": command,
        "limit_pct": LIMIT_PCT,
        "quality": [row for row in rows if row["mass"] == mass],
    }
    if timings:
        about["evaluation"] |= {
            "crossover": {"tokens": crossover(timings), "machine": machine(timings[0])},
            "timings": [asdict(timing) for timing in timings],
        }
    write_json(gates / "gates.json", about)
    return mass


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    results = {file.stem: json.loads(file.read_text()) for file in RESULTS.glob("*.json")}
    timings = [saa.Timing(**row) for row in results["latency"]]
    assets = ROOT / "assets"
    mass = publish_gates(
        assets / "gates" / "smollm2",
        results["quality"],
        "python benchmarks/quality.py && python benchmarks/latency.py",
        timings,
    )
    joint = publish_gates(
        assets / "adapters" / "smollm2" / "saa-joint" / "gates",
        results["quality_joint"],
        "python benchmarks/quality.py --adapter saa-joint --out benchmarks/results/quality_joint.json",
    )
    encoder = publish_encoder(assets / "gates" / "minilm")
    shown = [row for row in results["quality"] if row["mass"] in (mass, 0.93, 0.9)]
    shown_joint = [row for row in results["quality_joint"] if row["mass"] in (joint, 0.9, 1.0)]
    tables = {
        "quality": quality_table(shown),
        "joint": quality_table(shown_joint),
        "encoder": encoder_table(encoder),
        "latency": latency_table(timings),
        "gpu": latency_table([saa.Timing(**row) for row in results["gpu"]]),
        "frontier": frontier_table(results["frontier"]),
        "equal": equal_density_table(results["frontier"]),
        "retrieval": retrieval_table(results["retrieval"]),
        "prefill": prefill_table(results["prefill"]),
        "prefill_xeon": prefill_table(results["prefill_xeon"]),
        "understanding": understanding_table(results["understanding"]),
        "seeds": seeds_table(results["understanding"]),
        "trust": trust_table(results["trust"]),
        "reliability": reliability_table(
            {
                "SmolLM2": assets / "gates" / "smollm2",
                "SmolLM2, joint": assets / "adapters" / "smollm2" / "saa-joint" / "gates",
                "MiniLM": assets / "gates" / "minilm",
            }
        ),
    }
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = fill(text, name, table)
    write_text(readme, text)
    write_measured()
    print(f"default policy: mass {mass}; with the adapter: mass {joint}")


if __name__ == "__main__":
    main()
