"""Carries measured figures to where people read them; measures nothing itself.

    python -m benchmarks.publish.publish

From the JSON files of benchmarks/results into assets/gates/NAME/gates.json (default policy, evaluation,
crossover), into the figures of the shipped presentations, and into the tables between the markers of
docs/results.md, README.md and README.ja.md. How true predicted mass is comes from the gates' folders.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import saa_core as saa
from benchmarks.page.decks import write_measured
from benchmarks.publish.tables_kinds import kinds_table, one_percent_table, retrieval_table
from benchmarks.publish.tables_peers import (
    load_peers_table,
    peers_accuracy_table,
    peers_line,
    peers_process_table,
    peers_table,
)
from benchmarks.publish.tables_quality import (
    BY_LANGUAGE,
    encoder_table,
    equal_density_table,
    frontier_table,
    quality_table,
)
from benchmarks.publish.tables_readme import headline_table
from benchmarks.publish.tables_tasks import (
    japanese_table,
    seeds_table,
    shift_table,
    understanding_table,
)
from benchmarks.publish.tables_time import app_table, latency_table, machine, prefill_table
from benchmarks.publish.tables_trust import (
    far_table,
    promise_table,
    reliability_table,
    trust_table,
    tune_table,
)
from benchmarks.quality.quality import LIMIT_PCT, choose
from benchmarks.tasks.understanding import shipped_seeds
from saa_core.files import write_json, write_text
from saa_core.gates.defaults import MassTable
from saa_core.run.timing import crossover
from saa_core.types import DEFAULT_MASS, Policy

ROOT = Path(__file__).parents[2]


RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = "Not measured yet."


ENCODERS = {
    "minilm": ("encoder", "python -m benchmarks.quality.encoder"),
    "e5": ("encoder_e5", "python -m benchmarks.quality.encoder --model e5"),
}
"""Gates of encoders: what measured them, and by which command (its options stand in the module)."""


def publish_encoder(gates: Path) -> None:
    """Writes the evaluation of an encoder's gates beside them."""
    name, command = ENCODERS[gates.name]
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    about = json.loads((gates / "gates.json").read_text())
    shown = [row for row in rows if row["mass"] == _mass(about, row["length"], row["block"])]
    about["evaluation"] = {"command": command, "quality": shown}
    write_json(gates / "gates.json", about)


def fill(text: str, name: str, table: str) -> str:
    """Replaces what stands between the markers of that name."""
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    head, rest = text.split(start, 1)
    tail = rest.split(end, 1)[1]
    return f"{head}{start}\n{table}\n{end}{tail}"


def write_tables(page: Path, tables: dict[str, str]) -> None:
    """Fills a page's tables, by the names in its markers; the rest of it stays."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = fill(text, name, table)
    write_text(page, text)


def publish_gates(
    gates: Path, rows: list[dict[str, Any]], command: str, timings: list[saa.Timing] | None = None
) -> float:
    """Writes default policy and evaluation of a language model's gates; returns the default mass, at 1,024
    tokens where it follows the length: such a default stays as it was calibrated."""
    about = json.loads((gates / "gates.json").read_text())
    if "defaults" not in about:
        mass = choose(rows)
        if mass is None:
            raise SystemExit(
                f"{gates}: no mass stays within {LIMIT_PCT} % at every length and text"
            )
        about["policy"]["mass"] = mass
    mass = _mass(about)
    about["evaluation"] = {
        "command": command,
        "limit_pct": LIMIT_PCT,
        "quality": [r for r in rows if r["mass"] == _mass(about, r["length"], r["block"])],
    }
    if timings:
        about["evaluation"] |= {
            "crossover": {"tokens": crossover(timings), "machine": machine(timings[0])},
            "timings": [asdict(timing) for timing in timings],
        }
    write_json(gates / "gates.json", about)
    return mass


def prefill_timings(rows: list[dict[str, Any]]) -> list[saa.Timing]:
    """The float32 rows of the joint model, dense and SAA in turn; under the policy that each names."""
    found = []
    for row in rows:
        if row["dtype"] != "float32":
            continue
        about = {name: row[name] for name in ("length", "dtype", "device", "threads", "versions")}
        for side, name in (("dense", "dense"), ("saa", f"saa {row['policy']}")):
            measured = {
                what: row[what][side]
                for what in ("samples_ms", "attention_ms", "stages_ms", "peak_bytes")
            }
            dense = side == "dense"
            found.append(
                saa.Timing(
                    name=name,
                    kernel="dense" if dense else row["kernel"],
                    compile_ms=0.0 if dense else row["compile_ms"],
                    density=1.0 if dense else row["density_timed"],
                    **about,
                    **measured,
                )
            )
    return found


def read_results() -> dict[str, Any]:
    """What every benchmark measured, by the name of its file."""
    return {file.stem: json.loads(file.read_text("utf-8")) for file in RESULTS.glob("*.json")}


def result_tables(results: dict[str, Any]) -> dict[str, str]:
    """Every table of docs/results.md, by the name in its markers; shown at the shipped default settings."""
    assets = ROOT / "assets"
    gates = {
        "SmolLM2": assets / "gates" / "smollm2",
        "SmolLM2, joint": assets / "adapters" / "smollm2" / "saa-joint" / "gates",
        "MiniLM": assets / "gates" / "minilm",
    }
    mass, joint, encoder = (_shipped_mass(folder) for folder in gates.values())
    e5 = _shipped_mass(assets / "gates" / "e5")
    return {
        "quality": quality_table(_at(results["quality"], mass, 0.93, 0.9)),
        "joint": quality_table(_at(results["quality_joint"], joint, 0.9, 1.0)),
        "encoder": encoder_table(_at(results["encoder"], encoder)),
        "encoder_e5": encoder_table(_by_length(_at(results["encoder_e5"], e5)), BY_LANGUAGE),
        "latency": latency_table(_timings(results["latency"])),
        "gpu": latency_table(_timings(results["gpu"])),
        "frontier": frontier_table(results["frontier"]),
        "equal": equal_density_table(results["frontier"]),
        "kinds": kinds_table(results["generalise"], (0.91, 0.94)),
        "kinds_density": one_percent_table(results["generalise"]),
        "retrieval": retrieval_table(results["retrieval"]),
        "prefill": prefill_table(results["prefill"]),
        "prefill_xeon": prefill_table(results["prefill_xeon"]),
        "understanding": understanding_table(results["understanding"], shipped_seeds()),
        "seeds": seeds_table(results["understanding"]),
        "shift": shift_table(results["understanding"]),
        "japanese": japanese_table(results["japanese"]),
        "trust": trust_table(results["trust"]),
        "far": far_table(results["far"]),
        "far_e5": far_table(results["far_e5"]),
        "promise": promise_table(results["promise"]),
        "tune": tune_table(results["tune"]),
        "app": app_table(results["ui"], results["store"]),
        "reliability": reliability_table(gates),
        **peers_tables(results),
    }


def peers_tables(results: dict[str, Any]) -> dict[str, str]:
    """Those beside what people deploy; a line in place of what was not measured yet."""
    found = dict.fromkeys(("peers", "peers_accuracy", "peers_process", "load_peers"), NOT_MEASURED)
    if "peers" in results:
        rows = results["peers"]
        found["peers"] = peers_table(rows)
        found["peers_accuracy"] = peers_accuracy_table(rows)
        found["peers_process"] = peers_process_table(rows)
        if "load_peers" in results:
            found["load_peers"] = load_peers_table(results["load_peers"], rows)
    return found


def put_below(page: Path, name: str, table: str, above: str) -> None:
    """Fills a page's table; where the page has none of that name it begins below the table ``above``."""
    text, end = page.read_text(encoding="utf-8"), f"<!-- end {above} -->"
    if f"<!-- {name} -->" not in text:
        place = f"{end}\n\n<!-- {name} -->\n\n<!-- end {name} -->"
        text = text.replace(end, place, 1)
    write_text(page, fill(text, name, table))


def _at(rows: list[dict[str, Any]], *masses: float) -> list[dict[str, Any]]:
    return [row for row in rows if row["mass"] in masses]


def _by_length(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Languages beneath each other at each length."""
    order = {name: place for place, name in enumerate(BY_LANGUAGE)}
    return sorted(rows, key=lambda row: (row["length"], order.get(row["text"], 9), row["density"]))


def _shipped_mass(gates: Path) -> float:
    return _mass(json.loads((gates / "gates.json").read_text("utf-8")))


def _mass(about: dict[str, Any], length: int = 1024, block: Sequence[int] = (32, 16)) -> float:
    """The default mass of gates for a text, from what is stored with them."""
    policy = Policy.stored(about["policy"])
    if policy.mass is not None or "defaults" not in about:
        return policy.mass or DEFAULT_MASS
    return MassTable.read(about["defaults"]).mass(length, (block[0], block[1])) or DEFAULT_MASS


def _timings(rows: list[dict[str, Any]]) -> list[saa.Timing]:
    return [saa.Timing(**row) for row in rows]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    results = read_results()
    assets = ROOT / "assets"
    mass = publish_gates(
        assets / "gates" / "smollm2",
        results["quality"],
        "python -m benchmarks.quality.quality && python -m benchmarks.speed.latency",
        _timings(results["latency"]),
    )
    joint = publish_gates(
        assets / "adapters" / "smollm2" / "saa-joint" / "gates",
        results["quality_joint"],
        "python -m benchmarks.quality.quality --adapter saa-joint --out benchmarks/results/quality_joint.json "
        "&& python -m benchmarks.speed.prefill --adapter saa-joint",
        prefill_timings(results["prefill"]),
    )
    for name in ENCODERS:
        publish_encoder(assets / "gates" / name)
    write_tables(ROOT / "docs" / "results.md", result_tables(results))
    headline = (results["prefill"], results["prefill_xeon"], results["frontier"])
    write_tables(ROOT / "README.md", {"headline": headline_table(*headline, "en")})
    write_tables(ROOT / "README.ja.md", {"headline": headline_table(*headline, "ja")})
    for language, page in (("en", "README.md"), ("ja", "README.ja.md")):
        if "peers" in results:
            line = peers_line(results["peers"], language)
            put_below(ROOT / page, "peers", line, above="headline")
    write_measured()
    print(f"default policy: mass {mass}; with the adapter: mass {joint}")


if __name__ == "__main__":
    main()
