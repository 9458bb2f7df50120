"""Tables of what sparsity costs in quality: settings, rules, encoder."""

import itertools
from collections.abc import Mapping
from typing import Any

from benchmarks.quality.frontier import ADAPTER, JOINT, LEARNED, METHODS, WINDOW, curve
from benchmarks.quality.quality import LIMIT_PCT, TITLES


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


BY_LANGUAGE = {
    "gimp-ja": "Japanese: GIMP's manual",
    "manual-ja": "Japanese: Debian Reference, of which the gate saw nothing",
    "manual": "English: Debian Reference",
    "wikipedia": "English: Wikipedia articles, of which the gate saw nothing",
}
"""Texts of the model that reads Japanese."""


def encoder_table(rows: list[dict[str, Any]], titles: Mapping[str, str] = TITLES) -> str:
    lines = [
        "| text | tokens | decided in | mass | density | attention kept | cosine (95 % interval) |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {titles.get(row['text'], row['text'])} | {row['length']:,} "
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
