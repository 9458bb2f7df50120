"""Tables of the language tasks: budgets, seeds, texts of another task, Japanese."""

from collections.abc import Callable, Mapping
from statistics import fmean as mean
from typing import Any

from benchmarks.tasks.understanding import SHARES


def understanding_table(rows: list[dict[str, Any]], seeds: Mapping[str, int]) -> str:
    """The shipped gates on the test texts of their own task; ``seeds`` is understanding.shipped_seeds()."""
    lines = [
        "| task | tokens asked | dense asked | operations | accuracy | dense | difference (95 % interval) "
        "| 32 at a time, times faster | one at a time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    own = [
        row for row in rows if row["data"] == row["task"] and row["seed"] == seeds.get(row["task"])
    ]
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


def shift_table(rows: list[dict[str, Any]]) -> str:
    """Texts of another task than the one that both sides were trained for."""
    lines = [
        "| trained on | tested on | seed | tokens asked | dense asked | operations | accuracy | dense "
        "| difference (95 % interval) | labels changed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["data"] != row["task"]:
            lines.append(f"| {row['task']} | {row['data']} | {_beside_dense(row)} |")
    return "\n".join(lines)


LANGUAGES = {"help-ja": "Japanese", "manpages-ja": "Japanese", "help-en": "English"}
"""Of the texts of a task."""


def japanese_table(rows: list[dict[str, Any]]) -> str:
    """Tasks of the model that reads Japanese, seed by seed; also tested on texts of the other language."""
    lines = [
        "| trained on | tested on | test texts | seed | tokens asked | dense asked | operations | accuracy "
        "| dense | difference (95 % interval) | labels changed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        task, data = (
            f"{row[which]} ({LANGUAGES.get(row[which], row[which])})" for which in ("task", "data")
        )
        lines.append(f"| {task} | {data} | {row['texts']:,} | {_beside_dense(row)} |")
    return "\n".join(lines)


def _beside_dense(row: Mapping[str, Any]) -> str:
    """Cells of one row, from the seed to the labels that changed."""
    low, high = (100 * row[f"difference_{end}"] for end in ("lo", "hi"))
    return (
        f"{row['seed']} | {row['tokens']:g}{', the default' if row['default'] else ''} "
        f"| {100 * row['asked']:.0f} % | {100 * row['flops_share']:.0f} % "
        f"| {100 * row['accuracy']:.1f} % | {100 * row['dense_accuracy']:.1f} % "
        f"| {100 * (row['accuracy'] - row['dense_accuracy']):+.1f} ({low:+.1f} to {high:+.1f}) "
        f"| {100 * row['changed']:.1f} %"
    )
