"""What a search leaves behind in its folder: the trials as JSON, a table and a picture, and the slices.

The picture is written as plain SVG, so that tuning needs no plotting library.
"""

import csv
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from saa_core.certify.tune import Tuned
from saa_core.files import replacing, write_json, write_text
from saa_core.types import Policy

COLUMNS = ("policy", "work", "loss", "front", "hand_set", "certified", "p_value", "chosen")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 400, 70, 50, 40, 20
COLOURS = {"tried": "#9aa5b1", "front": "#2563eb", "certified": "#15803d", "limit": "#b91c1c"}


def write_results(folder: Path, tuned: Tuned) -> None:
    """front.json, front.csv, front.svg and slices.json; each is renamed into place."""
    rows = rows_of(tuned)
    sla = tuned.promise.sla
    write_json(
        folder / "front.json",
        {
            "sla": asdict(sla),
            "texts": {"searched": tuned.searched, "certified": tuned.certified},
            "trials": [
                row | {"settings": asdict(trial.policy)}
                for row, trial in zip(rows[1:], tuned.trials, strict=True)
            ],
        },
    )
    with replacing(folder / "front.csv") as part, part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    write_text(folder / "front.svg", picture(rows, tuned))
    write_json(folder / "slices.json", [asdict(each) for each in tuned.slices])


def describe_policy(policy: Policy) -> str:
    """What the search moved, in words."""
    parts = [str(policy)]
    if policy.budget is not None:
        parts.append(f"per {policy.budget_over}")
    if policy.tokens is None:
        parts.append(
            policy.granularity if policy.granularity != "block" else "{}x{}".format(*policy.block)
        )
    return ", ".join(parts)


def rows_of(tuned: Tuned) -> list[dict[str, Any]]:
    """Dense, then every trial: what was measured in the search, and what came of it afterwards."""
    tested = {setting.policy: setting for setting in tuned.promise.settings}
    dense = {"policy": "dense", "work": 1.0, "loss": 0.0, "front": True, "hand_set": True}
    rows = [dense | {"certified": True, "p_value": None, "chosen": tuned.promise.policy is None}]
    for trial in tuned.trials:
        setting = tested.get(trial.policy)
        rows.append(
            {
                "policy": describe_policy(trial.policy),
                "work": round(trial.work, 6),
                "loss": round(trial.loss, 6),
                "front": trial.front,
                "hand_set": trial.hand_set,
                "certified": None if setting is None else setting.certified,
                "p_value": None if setting is None else setting.p_value,
                "chosen": trial.policy == tuned.promise.policy,
            }
        )
    return rows


def picture(rows: list[dict[str, Any]], tuned: Tuned) -> str:
    """Loss over work: what was tried, the front, what was certified (ringed: chosen), the limit."""
    sla = tuned.promise.sla
    highest: float = min(max(2.5 * sla.limit, *(row["loss"] for row in rows)), 6 * sla.limit)

    def x(work: float) -> float:
        return LEFT + min(work, 1.1) / 1.1 * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - min(loss, highest) / highest * (HEIGHT - TOP - BOTTOM)

    def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'

    def words(at: tuple[float, float], text: str, style: str = "") -> str:
        return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" {style}>{escape(text)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="#1f2933">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    middle = 'text-anchor="middle"'
    for step in range(6):
        work, loss = step / 5, highest * step / 5
        parts.append(line(LEFT, y(loss), WIDTH - RIGHT, y(loss), 'stroke="#e4e7eb"'))
        parts.append(words((LEFT - 8, y(loss) + 4), f"{100 * loss:.2g} %", 'text-anchor="end"'))
        parts.append(words((x(work), HEIGHT - BOTTOM + 18), f"{100 * work:.0f} %", middle))
    parts.append(words((WIDTH / 2, HEIGHT - 10), "work, share of dense", middle))
    title = f"{sla.quantity.replace('_', ' ')} (mean of {tuned.searched} texts)"
    parts.append(words((LEFT, 14), title))
    limit = f'stroke="{COLOURS["limit"]}" stroke-dasharray="5 4"'
    parts.append(line(LEFT, y(sla.limit), WIDTH - RIGHT, y(sla.limit), limit))
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["work"])
    path = " ".join(f"{x(row['work']):.1f},{y(row['loss']):.1f}" for row in front)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS["front"]}"/>')
    for row in rows:
        kind = "certified" if row["certified"] else "front" if row["front"] else "tried"
        at = f'cx="{x(row["work"]):.1f}" cy="{y(row["loss"]):.1f}"'
        tip = f"{row['policy']}: loss {100 * row['loss']:.2f} %, work {100 * row['work']:.1f} %"
        parts.append(
            f'<circle {at} r="4" fill="{COLOURS[kind]}"><title>{escape(tip)}</title></circle>'
        )
        if row["chosen"]:
            parts.append(f'<circle {at} r="9" fill="none" stroke="{COLOURS["certified"]}"/>')
    for index, (kind, colour) in enumerate(COLOURS.items()):
        left = LEFT + 110 * index
        parts.append(f'<circle cx="{left + 4}" cy="27" r="4" fill="{colour}"/>')
        parts.append(words((left + 14, 31), kind))
    return "\n".join([*parts, "</svg>", ""])
