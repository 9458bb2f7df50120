"""Tables of guard, promises, tuning and calibration."""

from pathlib import Path
from statistics import fmean as mean
from typing import Any

from benchmarks.quality.quality import TITLES
from saa_core.gates.files import read_gates


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


def far_table(found: dict[str, Any]) -> str:
    """How many texts were found to be unlike those of the training, by kind of text and model."""
    names = list(dict.fromkeys(row["model"] for row in found["rows"]))
    lines = [
        "| texts | tokens | " + " | ".join(MODEL_TITLES.get(name, name) for name in names) + " |",
        "| --- | ---: |" + " ---: |" * len(names),
    ]
    groups: dict[tuple[str, int], dict[str, str]] = {}
    for row in found["rows"]:
        cells = groups.setdefault((row["text"], row["length"]), {})
        cells[row["model"]] = f"{row['far']} of {row['count']}"
    for (text, length), cells in groups.items():
        own = " | ".join(cells.get(name, "–") for name in names)
        lines.append(f"| {TITLES.get(text, text)} | {length:,} | {own} |")
    return "\n".join(lines)


MODEL_TITLES = {
    "smollm2": "SmolLM2",
    "smollm2 + saa-joint": "SmolLM2, joint",
    "minilm": "MiniLM",
    "e5": "multilingual-e5-small",
}


def promise_table(rows: list[dict[str, Any]]) -> str:
    """How often promises were kept on texts that had no part in them, and what they saved."""
    lines = [
        "| model and task | promised at most | texts | kept, other half | kept, all texts | stayed dense "
        "| work, mean of all splits | worst kind of text, all texts (95 % interval) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        quantity, limit = next((name, row["sla"][name]) for name in LOSSES if row["sla"][name])
        losses = {"dense": 0.0} | {each["policy"]: each["loss"] for each in row["ladder"]}
        whole = sum(losses[split["policy"]] <= limit for split in row["splits"])
        kinds = [each for each in row["slices"]["rows"] if each["texts"] and each["name"] != "all"]
        worst = "–"
        if kinds:
            low, high = (100 * kinds[0][end] for end in ("low", "high"))
            worst = (
                f"{kinds[0]['name']}: {100 * kinds[0]['loss']:.2f} % ({low:.2f} to {high:.2f}), "
                f"{kinds[0]['texts']:,} texts"
            )
        lines.append(
            f"| {row['name']} | {LOSSES[quantity].format(limit=100 * limit)} | {row['texts']:,} "
            f"| {row['kept']} of {len(row['splits'])} | {whole} of {len(row['splits'])} "
            f"| {row['dense']} of {len(row['splits'])} | {100 * row['mean_work']:.0f} % | {worst} |"
        )
    return "\n".join(lines)


def tune_table(domains: list[dict[str, Any]]) -> str:
    """Tuned, default and hand-set policies on texts that no search saw."""
    lines = [
        "| texts | promised at most | policy | loss (95 % interval) | work | within | texts compared |",
        "| --- | --- | --- | ---: | ---: | --- | ---: |",
    ]
    for domain in domains:
        limit = LOSSES[domain["quantity"]].format(limit=100 * domain["limit"])
        for row in domain["rows"]:
            loss, low, high = (100 * row[name] for name in ("loss", "low", "high"))
            lines.append(
                f"| {domain['name']} | {limit} | {row['name']}: {row['policy']} "
                f"| {loss:.2f} % ({low:.2f} to {high:.2f}) | {100 * row['work']:.0f} % "
                f"| {'yes' if row['within'] else 'no'} | {domain['compared']} |"
            )
    return "\n".join(lines)


LOSSES = {
    "label_change": "{limit:g} % of labels changed",
    "perplexity": "{limit:g} % more perplexity",
    "missed_mass": "{limit:g} % of the attention missed",
}


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
