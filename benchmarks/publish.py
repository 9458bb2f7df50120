"""Carries measured figures to where people read them; measures nothing itself.

    python benchmarks/publish.py

From benchmarks/results/quality.json, latency.json and encoder.json into assets/gates/NAME/gates.json
(default policy, evaluation, crossover) and into the tables between the markers of README.md.
"""

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quality import LIMIT_PCT, TITLES, choose

import saa_core as saa
from saa_core.files import write_json, write_text
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=Path, default=ROOT / "assets" / "gates" / "smollm2")
    options = parser.parse_args()
    rows = json.loads((RESULTS / "quality.json").read_text())
    timings = [saa.Timing(**row) for row in json.loads((RESULTS / "latency.json").read_text())]
    mass = choose(rows)
    if mass is None:
        raise SystemExit(f"no measured mass stays within {LIMIT_PCT} % at every length and text")
    chosen = [row for row in rows if row["mass"] == mass]
    about = json.loads((options.gates / "gates.json").read_text())
    about["policy"]["mass"] = mass
    about["evaluation"] = {
        "command": "python benchmarks/quality.py && python benchmarks/latency.py",
        "limit_pct": LIMIT_PCT,
        "quality": chosen,
        "crossover": {"tokens": crossover(timings), "machine": machine(timings[0])},
        "timings": [asdict(timing) for timing in timings],
    }
    write_json(options.gates / "gates.json", about)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    shown = [row for row in rows if row["mass"] in (mass, 0.93, 0.9)]
    text = fill(text, "quality", quality_table(shown))
    text = fill(text, "latency", latency_table(timings))
    encoder = publish_encoder(ROOT / "assets" / "gates" / "minilm")
    text = fill(text, "encoder", encoder_table(encoder))
    write_text(readme, text)
    print(f"default policy: mass {mass}")


if __name__ == "__main__":
    main()
