"""Tables of what holds on texts that no gate was trained on: by kind of text, and what is found again."""

import itertools
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.quality.generalise import at_one_percent, increase
from benchmarks.quality.retrieval import DENSE, against, hits, title
from saa_core.bounds import student_interval

Rows = Sequence[dict[str, Any]]


def kinds_table(rows: Rows, masses: Sequence[float]) -> str:
    """What settings cost, by kind and length; kinds that were left out of the training first.

    Args:
        masses: those to show.
    """
    own = [row for row in rows if row["mass"] in masses]
    lengths = sorted({row["length"] for row in own})
    lines = [
        "| kind of text | mass | " + " | ".join(f"{length:,}" for length in lengths) + " |",
        "| --- | ---: |" + " ---: |" * len(lengths),
    ]
    by_place = {(row["kind"], row["mass"], row["length"]): row for row in own}
    kinds = sorted({(not row["left_out"], row["kind"]) for row in own})
    for (trained, kind), mass in itertools.product(kinds, masses):
        found = [by_place.get((kind, mass, length)) for length in lengths]
        cells = ["–" if row is None else _cost(row) for row in found]
        name = f"{kind} (trained on)" if trained else kind
        lines.append(f"| {name} | {mass:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cost(row: dict[str, Any]) -> str:
    mean, low, high = increase(row)
    return f"{mean:+.2f} % ({low:+.2f} to {high:+.2f}), {row['density']:.2f}"


def one_percent_table(rows: Rows) -> str:
    """Density at which kinds that were left out lose 1 %, by length: the mean over them, and the worst."""
    lines = [
        "| tokens | decided in blocks of | pairs kept at +1 %, mean | worst kind | kinds |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    places = sorted({(row["length"], tuple(row["block"])) for row in rows if row["left_out"]})
    for length, block in places:
        found = {}
        for kind in sorted({row["kind"] for row in rows if row["left_out"]}):
            own = [
                r
                for r in rows
                if (r["kind"], r["length"], tuple(r["block"])) == (kind, length, block)
            ]
            density = at_one_percent(own)
            # A kind that loses less at the sparsest setting that was measured needs no more than that.
            least = min(own, key=lambda r: r["density"], default=None)
            if density is None and least is not None and increase(least)[0] < 1.0:
                density = least["density"]
            if density is not None:
                found[kind] = density
        if not found:
            continue
        worst = max(found, key=lambda kind: found[kind])
        lines.append(
            f"| {length:,} | {block[0]} x {block[1]} | {fmean(found.values()):.2f} "
            f"| {found[worst]:.2f} ({worst}) | {len(found)} |"
        )
    return "\n".join(lines)


def retrieval_table(rows: Rows) -> str:
    """What is found by method, and what is lost against dense on the same questions (paired, over texts)."""
    lines = [
        "| questions | tokens | method | pairs kept | found | lost against dense (95 % interval), points | asked |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    ordered = sorted(rows, key=lambda row: (row["questions"], row["length"]))
    for _, group in itertools.groupby(ordered, lambda row: (row["questions"], row["length"])):
        own = sorted(group, key=lambda row: row["method"] != DENSE)
        for row in own:
            lost = "–"
            if row is not own[0]:
                mean, low, high = (100 * value for value in against(row, own[0]))
                lost = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
            share = hits(row)
            low, high = (100 * value for value in student_interval(share))
            lines.append(
                f"| {row['questions']} | {row['length']:,} | {title(row)} | {fmean(row['densities']):.2f} "
                f"| {100 * fmean(share):.1f} % ({low:.0f} to {high:.0f}) | {lost} "
                f"| {sum(map(len, row['margins_nats'])):,} |"
            )
    return "\n".join(lines)
