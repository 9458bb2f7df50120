"""Records what the shipped presentations show; words and order stand in assets/decks/NAME.toml.

    python -m benchmarks.page.decks             # runs the texts again and writes the traces
    python -m benchmarks.page.decks --measured  # only the figures from benchmarks/results

Traces lie beside them as TIME-NAME.saa. Final states and next words are left out, which no map shows; so is, of
long texts, what each token receives. measured.json holds the figures that other benchmarks measured,
with their spread, day and machine; publish.py writes it too.
"""

import argparse
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import saa_core as saa
from benchmarks.tasks.understanding import shipped_seeds
from saa_core.deck.figures import MeasuredFigure
from saa_core.files import write_json
from saa_core.store import ids

ROOT = Path(__file__).parents[2]
DECKS = ROOT / "assets" / "decks"
RESULTS = ROOT / "benchmarks" / "results"
EXAMPLES = ROOT / "assets" / "examples"
PREFILL = {"length": 8192, "dtype": "bfloat16"}
PERPLEXITY = {"method": "SAA, joint", "length": 8192, "text": "austen", "aim": 0.9}
TASK = "sentences"
LONG = 512
"""Tokens above which a trace leaves out what each token receives."""


@dataclass(frozen=True)
class Run:
    """One trace to record, of a text of the gallery.

    Args:
        changes: of the model's shipped policy; None is dense attention, of a task its reference model.
        record: "full", or "summary" where only figures are shown.
        characters: of the text, from its beginning; None is all of it.
    """

    name: str
    file: str
    model: str = "minilm"
    task: str | None = None
    adapter: str | None = None
    changes: Mapping[str, Any] | None = field(default_factory=dict)
    record: Literal["full", "summary"] = "full"
    characters: int | None = None


def _label(name: str, file: str, task: str, **changes: Any) -> Run:
    """A run of which only the label is shown; without changes it is dense."""
    return Run(name, file, task=task, changes=changes or None, record="summary")


JOKES, MAIL, MUSEUM = "old_jokes.txt", "moving_server.txt", "museum_visitors.txt"
PAIRS = {"tokens": None, "mass": 0.5}
"""Pair by pair, no whole tokens dropped, and sparse: the setting under which the mail goes astray."""
RUNS = (
    Run("bakery", "bakery.txt", task="sentences"),
    _label("bakery_dense", "bakery.txt", "sentences"),
    Run("notice", "ja_notice.txt", model="e5", changes={"granularity": "block", "block": (8, 8)}),
    Run("novel", "persuasion_700.txt", model="smollm2", adapter="saa-joint", characters=2070),
    Run("jokes", JOKES, task="sentences"),
    _label("jokes_dense", JOKES, "sentences"),
    _label("jokes_60", JOKES, "sentences", tokens=0.6),
    _label("jokes_70", JOKES, "sentences", tokens=0.7),
    _label("jokes_guarded", JOKES, "sentences", guard=saa.Guard(missed_mass=None, margin=0.6)),
    _label("museum", MUSEUM, "facts", guard=None),
    _label("museum_dense", MUSEUM, "facts"),
    _label("museum_guarded", MUSEUM, "facts", guard=saa.Guard(missed_mass=None, margin=0.2)),
    _label("mail_dense", MAIL, "spam"),
    Run("mail", MAIL, task="spam", changes=PAIRS),
    Run("mail_forced", MAIL, task="spam", changes=PAIRS | {"force": (saa.Force(key=5),)}),
    _label("mail_more", MAIL, "spam", tokens=None, mass=0.8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", action="store_true", help="only measured.json")
    parser.add_argument("--only", help="the run with this name")
    options = parser.parse_args()
    write_measured()
    if not options.measured:
        record(options.only)


def write_measured() -> None:
    """The measured figures beside the presentations."""
    found = {name: asdict(figure) for name, figure in measured().items()}
    write_json(DECKS / "measured.json", found)


def record(only: str | None = None) -> None:
    """Writes every trace anew, or one, and takes away the earlier ones of its name."""
    for run in RUNS:
        if only not in (None, run.name):
            continue
        dense = run.task is not None and run.changes is None
        model = saa.load(
            run.model,
            task=run.task,
            side="dense" if dense else "auto",
            adapter=run.adapter,
            device="cpu",
        )
        policy = None if run.changes is None else replace(model.spec.policy, **run.changes)
        text = (EXAMPLES / run.file).read_text(encoding="utf-8")[: run.characters].rstrip()
        trace = replace(
            saa.run(model, text, policy, record=run.record),
            hidden=None,
            top_ids=None,
            top_probs=None,
        )
        if trace.keys > LONG:
            trace = replace(trace, attention_received=None)
        for old in DECKS.glob("*.saa"):
            if ids.name_of(old.stem) == run.name:
                old.unlink()
        file = DECKS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{run.name}.saa"
        print(f"{trace.save(file)}: {trace.label or ''} {trace.sparsity:.3f} dropped")


def measured() -> dict[str, MeasuredFigure]:
    """Figures that decks name, from the results of other benchmarks."""
    prefill = result_row("prefill", PREFILL)
    perplexity = result_row("frontier", PERPLEXITY)
    own = {"task": TASK, "data": TASK, "seed": shipped_seeds()[TASK], "default": True}
    task = result_row("understanding", own)
    timed = machine_of("prefill", prefill)
    return {
        "prefill": MeasuredFigure(
            prefill["prefill_ratio"],
            "times",
            source="python -m benchmarks.speed.prefill --adapter saa-joint",
            low=prefill["prefill_ratio_quartiles"][0],
            high=prefill["prefill_ratio_quartiles"][1],
            **timed,
        ),
        "perplexity": MeasuredFigure(
            perplexity["ppl_increase_pct"],
            "change",
            source="python -m benchmarks.quality.frontier --adapter saa-joint",
            low=perplexity["lo"],
            high=perplexity["hi"],
            spread="interval",
            **(timed | {"recorded": day_of("frontier")}),
        ),
        **_of_task(task, timed | {"recorded": day_of("understanding"), "threads": task["threads"]}),
    }


def _of_task(row: dict[str, Any], where: dict[str, Any]) -> dict[str, MeasuredFigure]:
    """What a task's default costs and saves on its test texts."""
    where = {**where, "source": "python -m benchmarks.tasks.understanding"}
    changed = wilson(row["changed"], row["texts"])
    times = {
        name: MeasuredFigure(row[ratio], "times", low=row[spread][0], high=row[spread][1], **where)
        for name, ratio, spread in (
            ("task_batch", "throughput_ratio_b32", "throughput_quartiles"),
            ("task_single", "latency_ratio_b1", "latency_quartiles"),
        )
    }
    return times | {
        "task_changed": MeasuredFigure(
            100 * row["changed"],
            "percent",
            low=100 * changed[0],
            high=100 * changed[1],
            spread="interval",
            **where,
        ),
        "task_difference": MeasuredFigure(
            100 * (row["accuracy"] - row["dense_accuracy"]),
            "points",
            low=100 * row["difference_lo"],
            high=100 * row["difference_hi"],
            spread="interval",
            **where,
        ),
    }


def wilson(share: float, texts: int) -> tuple[float, float]:
    """95 % interval of a share of texts (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * texts)) / (1 + z * z / texts)
    reach = z * math.sqrt(share * (1 - share) / texts + (z / (2 * texts)) ** 2)
    return middle - reach / (1 + z * z / texts), middle + reach / (1 + z * z / texts)


def result_rows(name: str, where: dict[str, Any]) -> list[dict[str, Any]]:
    rows = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def result_row(name: str, where: dict[str, Any]) -> dict[str, Any]:
    (row,) = result_rows(name, where)
    return row


def machine_of(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "recorded": day_of(name),
        "device": row["device"],
        "cpu": row["versions"]["cpu"],
        "threads": row["threads"],
    }


def day_of(name: str) -> str:
    """When a file of results was last written."""
    return day_of_file(RESULTS / f"{name}.json")


def day_of_file(file: Path) -> str:
    """When a file was last written: its last commit, or its age where it has changed since."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments, "--", str(file)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    if git("status", "--porcelain").strip():
        return f"{datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%d}"
    return git("log", "-1", "--format=%cs").strip()


if __name__ == "__main__":
    main()
