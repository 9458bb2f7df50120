"""Tables of classification on a CPU beside what people deploy: against the fastest peer that loses little enough.

A side is admissible where its labels were counted on all tasks that were timed, and it loses at most MEAN points
against dense PyTorch on average and at most WORST on any. A peer whose labels were not counted is taken for
admissible, a side of ours is not: what is not known shall not flatter.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.tasks.peer_sides import DENSE
from benchmarks.tasks.roofline import BYTES, least_ms

MEAN, WORST = 0.5, 1.0
"""Points of accuracy that a side may lose: on average over the tasks, and on each."""
PACKED = "ONNX Runtime, packed, int8"
SHORT, LONG = (16, 32), (128, 256)
Rows = Sequence[Mapping[str, Any]]


def is_own(side: str) -> bool:
    return "SAA" in side


def is_peer(side: str) -> bool:
    """What people deploy; the packed reference is SAA's way without the gates."""
    return not is_own(side) and "packed" not in side


def losses(rows: Rows) -> dict[str, dict[str, float]]:
    """Points lost against dense by side and task."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["what"] == "accuracy" and "left_out" not in row:
            found.setdefault(row["side"], {})[row["task"]] = row["lost_points"]
    return found


def admissible(rows: Rows) -> Callable[[str], bool]:
    """Whether a side loses little enough."""
    lost, tasks = losses(rows), {row["task"] for row in rows if row["what"] == "time"}

    def fits(side: str) -> bool:
        known = lost.get(side, {})
        if side == DENSE:
            return True
        if not tasks <= set(known):
            within = all(points <= WORST for points in known.values())
            return within and not is_own(side)
        return fmean(known.values()) <= MEAN and max(known.values()) <= WORST

    return fits


def speeds(row: Mapping[str, Any]) -> dict[str, float]:
    """Median over rounds of the ms of all batches, by side."""
    return {side: median(map(sum, rounds)) for side, rounds in row["ms"].items()}


def peers_table(rows: Rows) -> str:
    """One line per task, batch and length: ms of the fastest admissible peer and of SAA, and the limit."""
    fits = admissible(rows)
    machine = next(row for row in rows if row["what"] == "machine")
    lines = [
        "| task | texts at a time | tokens up to | fastest peer | ms | SAA | ms | times faster "
        "| gates alone, int8 | SAA in OpenVINO | least ms, dense / SAA |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in _timed(rows):
        batches = len(next(iter(row["ms"].values()))[0])
        spent = {side: ms / batches for side, ms in speeds(row).items()}
        peer = _fastest(spent, lambda side: fits(side) and is_peer(side))
        own = _fastest(
            spent, lambda side: fits(side) and is_own(side) and not side.startswith("OpenVINO")
        )
        assert peer is not None
        read = spent.get("OpenVINO, SAA, bfloat16")
        gates = _ratio(spent.get(PACKED), spent.get("ONNX Runtime, SAA, int8"))
        least = " / ".join(
            f"{min(least_ms(machine, row['needs'], side, each) for each in BYTES):.2f}"
            for side in ("dense", "SAA")
        )
        cells = (
            *(row["task"], row["batch"], row["length"], peer, f"{spent[peer]:.1f}"),
            *(own or "-", "-" if own is None else f"{spent[own]:.1f}"),
            *(_ratio(spent[peer], spent.get(own or "")), gates, _ratio(spent[peer], read), least),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def peers_accuracy_table(rows: Rows) -> str:
    """Points that each side loses against dense on each task's test texts."""
    lost, fits = losses(rows), admissible(rows)
    tasks = sorted({task for known in lost.values() for task in known})
    lines = [
        f"| | {' | '.join(tasks)} | mean | within {MEAN:g} and {WORST:g} |",
        f"| --- |{' ---: |' * (len(tasks) + 1)} --- |",
    ]
    for side, known in lost.items():
        cells = [f"{-known[task]:+.1f}" if task in known else "-" for task in tasks]
        mean = f"{-fmean(known.values()):+.2f}"
        lines.append(f"| {side} | {' | '.join(cells)} | {mean} | {'yes' if fits(side) else 'no'} |")
    return "\n".join(lines)


def peers_process_table(rows: Rows) -> str:
    """How an engine starts in a process of its own, and what it holds; medians over tasks and starts."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["what"] == "process" and "starts" in row:
            found.setdefault(row["side"], []).extend(row["starts"])
    lines = [
        "| engine | start to first answer | memory | at most |",
        "| --- | ---: | ---: | ---: |",
    ]
    for side, starts in found.items():
        seconds, now, most = (
            median(start[name] for start in starts) for name in ("seconds", "mib", "most_mib")
        )
        lines.append(f"| {side} | {seconds:.2f} s | {now:.0f} MiB | {most:.0f} MiB |")
    return "\n".join(lines)


def load_peers_table(rows: Rows, peers: Rows) -> str:
    """Texts per second that each engine holds; medians over repeats."""
    fits = admissible(peers)
    kinds = [(limit, arrivals) for limit in (100.0, 30.0) for arrivals in ("poisson", "bursts")]
    lines = [
        f"| | {' | '.join(f'{name}, p95 < {limit:.0f} ms' for limit, name in kinds)} | admissible |",
        f"| --- |{' ---: |' * len(kinds)} --- |",
    ]
    held: dict[str, dict[tuple[float, str], list[float]]] = {}
    for row in rows:
        if row["what"] == "load":
            own = held.setdefault(row["side"], {})
            own.setdefault((row["limit_ms"], row["arrivals"]), []).append(row["rate"])
    for side, own in held.items():
        cells = [f"{median(own[kind]):.0f}" if kind in own else "-" for kind in kinds]
        lines.append(f"| {side} | {' | '.join(cells)} | {'yes' if fits(side) else 'no'} |")
    return "\n".join(lines)


def peers_line(rows: Rows, language: str) -> str:
    """The one row of the README: medians over tasks against the fastest admissible peer."""
    fits, texts = admissible(rows), LINE[language]
    cells = []
    for batch, lengths in ((1, SHORT), (1, LONG), (32, SHORT), (32, LONG)):
        ratios = []
        for row in _timed(rows):
            if row["batch"] == batch and row["length"] in lengths:
                spent = speeds(row)
                peer = _fastest(spent, lambda side: fits(side) and is_peer(side))
                own = _fastest(spent, lambda side: fits(side) and is_own(side))
                if peer and own:
                    ratios.append(spent[peer] / spent[own])
        cells.append(f"{median(ratios):.2f}" if ratios else "-")
    return "\n".join((*texts[:2], f"| {texts[2]} | {' | '.join(cells)} |"))


LINE = {
    "en": (
        "| times the fastest of PyTorch, ONNX Runtime, OpenVINO | one text, 32 tokens at most "
        "| one, 65 to 256 | 32 texts, short | 32, long |",
        "| --- | ---: | ---: | ---: | ---: |",
        "classification on a CPU",
    ),
    "ja": (
        "| PyTorch・ONNX Runtime・OpenVINO の最速に対する倍率 | 1 件、32 トークン以下 "
        "| 1 件、65〜256 | 32 件、短文 | 32 件、長文 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "CPU での分類",
    ),
}
"""Head, rule and name of the row, by language."""


def _timed(rows: Rows) -> list[Mapping[str, Any]]:
    found = [row for row in rows if row["what"] == "time"]
    return sorted(found, key=lambda row: (row["task"], row["batch"], row["length"]))


def _fastest(spent: Mapping[str, float], fits: Callable[[str], bool]) -> str | None:
    return min(filter(fits, spent), key=lambda side: spent[side], default=None)


def _ratio(slow: float | None, fast: float | None) -> str:
    return "-" if slow is None or fast is None else f"{slow / fast:.2f}"
