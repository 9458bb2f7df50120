"""How often a guard finds a text far from those that the gates were trained on, and what it then gains.

    python -m benchmarks.trust.far              # writes benchmarks/results/far.json and .svg

Kinds of texts are those of trust.py: held-out English, and shifted ones. Only the first layer's queries are
needed for the distance. For some texts that were found far the whole request is run under a guard twice, with
and without the larger samples that follow: what it could vouch for, what was truly missed, what was computed.
Texts of --data set no limit and had no part in the fit; of the novel the guard has seen the first half.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import altair as alt

import saa_core as saa
from benchmarks.trust.trust import ENGLISH, SHIFTED, fitting, one, requests
from saa_core.files import write_json
from saa_core.train.ood import describe_inputs

RESULTS = Path(__file__).parent.parent / "results"
MODELS = {"smollm2": {}, "smollm2 + saa-joint": {"adapter": "saa-joint"}, "minilm": {}, "e5": {}}
WORDS = 6
"""Different texts of one repeated word that there are."""


def distances(model: saa.Model, kind: str, length: int, count: int) -> dict[str, Any]:
    """Distance of each text over its limit, in the order of the texts."""
    known = model.gates[0].ood_detector
    assert known is not None
    count = min(count, WORDS) if kind == "one word" else count
    texts = [fitting(model, text, length) for text in requests(model, kind, length, count)]
    ids = [model.tokenize(text)[:length] for text in texts]
    found = known.distance(describe_inputs(model, ids)).tolist()
    ratios = [value / known.limit(len(own)) for value, own in zip(found, ids, strict=True)]
    return {
        "count": len(ratios),
        "far": sum(ratio > 1 for ratio in ratios),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def twice(model: saa.Model, text: str, policy: saa.Policy) -> dict[str, Any]:
    """One far request with the samples as they are everywhere, and twice as large."""
    gate = model.gates[0]
    known, gate.ood_detector = gate.ood_detector, None
    try:
        once = one(model, text, policy)
    finally:
        gate.ood_detector = known
    return {"once": once, "twice": one(model, text, policy)}


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Every text's distance, as a multiple of the limit."""
    points = [
        {"text": row["text"], "model": row["model"], "ratio": min(ratio, 20.0)}
        for row in rows
        for ratio in row["ratios"]
    ]
    axis = alt.X("ratio:Q", title="distance / limit", scale=alt.Scale(type="log"))
    order = [*ENGLISH, *SHIFTED]
    dots = (
        alt.Chart()
        .mark_tick(thickness=1.5, opacity=0.5)
        .encode(x=axis, y=alt.Y("text:N", title=None, sort=order))
    )
    rule = alt.Chart().mark_rule(strokeDash=[4, 4]).encode(x=alt.datum(1))
    drawn = alt.layer(dots, rule, data=alt.Data(values=points)).properties(width=420)
    drawn.facet(row=alt.Row("model:N", title=None)).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--english", nargs="+", default=list(ENGLISH))
    parser.add_argument("--shifted", nargs="*", default=list(SHIFTED))
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 300])
    parser.add_argument("--count", type=int, default=200, help="texts per kind and length at most")
    parser.add_argument("--checked", type=int, default=4, help="far texts per kind that are run")
    parser.add_argument("--mass", type=float, default=0.95)
    parser.add_argument("--limit", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=RESULTS / "far.json")
    options = parser.parse_args()
    policy = saa.Policy(mass=options.mass, guard=saa.Guard(options.limit))
    found: dict[str, Any] = {"policy": str(policy), "rows": [], "checked": []}
    for name in options.models:
        model = saa.load(name.partition(" + ")[0], device="cpu", **MODELS[name])
        for length in options.lengths:
            for kind in (*options.english, *options.shifted):
                about = {"model": name, "text": kind, "length": length}
                row = about | {"shifted": kind in options.shifted}
                row |= distances(model, kind, length, options.count)
                found["rows"].append(row)
                print(f"{name:20} {length:4} {kind:15} {row['far']}/{row['count']}", flush=True)
                if not row["shifted"] or length != options.lengths[-1]:
                    continue
                texts = requests(model, kind, length, row["count"])
                far = [text for text, ratio in zip(texts, row["ratios"], strict=True) if ratio > 1]
                for at, text in enumerate(far[: options.checked]):
                    both = twice(model, fitting(model, text, length), policy)
                    found["checked"].append(about | {"request": at} | both)
        write_json(options.out, found)
    plot(found["rows"], options.out.with_suffix(".svg"))
    print(json.dumps(gains(found["checked"]), indent=1))


def gains(checked: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the far texts that were run, with samples as everywhere and twice as large."""
    return {
        name: {
            side: sum(row[side][name] for row in checked) / len(checked)
            for side in ("once", "twice")
        }
        for name in (("bound", "missed", "density") if checked else ())
    }


if __name__ == "__main__":
    main()
