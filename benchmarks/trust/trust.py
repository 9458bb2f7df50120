"""Does the guard keep its promise: on texts like those of the training, on others, under broken gates.

    python -m benchmarks.trust.trust              # writes benchmarks/results/trust.json and .svg

A request is one text; it is run under the policy with and without a guard, and the true missed mass of
both is computed from the full attention. Kinds of texts: held-out English, and shifted ones (code,
Japanese, shuffled words, random bytes, one repeated word). Damages: those of saa_core.damage, and gates that
were trained for another model. "cost" times dense, SAA and SAA with the guard in interleaved rounds.
Resumable: what stands in the file is not measured again.
"""

import argparse
import json
import random
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import altair as alt

import saa_core as saa
from saa_core.data import corpus
from saa_core.explain.damage import KINDS, damage_gates
from saa_core.files import write_json
from saa_core.train.evaluate import window_starts
from saa_core.types import quartiles

RESULTS = Path(__file__).parent.parent / "results"
ENGLISH = ("austen", "wikipedia")
SHIFTED = ("code", "japanese", "shuffled words", "random bytes", "one word")
OTHER = "of another model"
WHOLE = "whole"


def requests(model: saa.Model, kind: str, length: int, count: int) -> list[str]:
    """So many texts of about ``length`` tokens; the same ones each time."""
    draw = random.Random(f"{kind}/{length}")
    if kind == "random bytes":
        return [draw.randbytes(length).decode("latin-1") for _ in range(count)]
    if kind == "one word":
        words = ("the", "buffalo", "sparse", "no", "0", "river")
        return [" ".join([words[index % len(words)]] * length) for index in range(count)]
    source = {"japanese": "manual-ja", "shuffled words": "austen"}.get(kind, kind)
    text = corpus.join_documents(corpus.documents([source]), "heldout")[source]
    tokens = model.tokenizer(text[:1_500_000], verbose=False)["input_ids"]
    starts = window_starts(len(tokens), length, count)
    found = [model.tokenizer.decode(tokens[at : at + length]).strip("\ufffd") for at in starts]
    if kind == "shuffled words":
        found = [" ".join(draw.sample(words, len(words))) for words in map(str.split, found)]
    return found


def fitting(model: saa.Model, text: str, length: int) -> str:
    """The text cut to ``length`` tokens."""
    encoded = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in encoded["offset_mapping"][:length]]
    return text[: max(ends)]  # what frames a text ends at 0


def one(model: saa.Model, text: str, policy: saa.Policy) -> dict[str, Any]:
    """One request: what it truly missed, and what its guard found and did."""
    trace = saa.run(model, text, policy)
    assert trace.retained_mass is not None
    dense = trace.policy is None
    missed = 0.0 if dense else 1.0 - float(trace.retained_mass.mean())
    results = [event for event in trace.events if event["suspected"] == "result"]
    events = [event for event in trace.events if event["suspected"] != "result"]
    return {
        "tokens": len(trace.token_ids),
        "missed": missed,
        "density": 1.0 if dense else float(trace.density.mean()),
        "bound": results[-1]["bound"] if results else None,
        "full_layers": len(model.gates) if dense else results[-1]["full_layers"] if results else 0,
        "events": [[event["suspected"], event["done"]] for event in events],
        "dense": dense,
    }


def both(model: saa.Model, text: str, policy: saa.Policy, guard: saa.Guard) -> dict[str, Any]:
    return {
        "blind": one(model, text, policy),
        "guarded": one(model, text, replace(policy, guard=guard)),
    }


def summary(rows: Iterable[dict[str, Any]], limit: float) -> str:
    found = list(rows)
    cells = []
    for side in ("blind", "guarded"):
        over = sum(row[side]["missed"] > limit for row in found)
        worst = max(row[side]["missed"] for row in found)
        cells.append(f"{side} {over}/{len(found)} over, worst {100 * worst:.1f} %")
    return "; ".join(cells)


def other_gates(model: saa.Model, other: saa.Model) -> saa.Model:
    """The model with the gates of another one of the same shape."""
    found = damage_gates(model, "zero")
    for gate, trained in zip(found.gates, other.gates, strict=True):
        gate.load_state_dict(trained.state_dict())
    return found


def cost(
    model: saa.Model, policy: saa.Policy, guard: saa.Guard, length: int, repeats: int
) -> dict[str, Any]:
    """What the guard takes of the time that SAA saves, by interleaved rounds."""
    policies = (None, policy, replace(policy, guard=guard))
    dense, sparse, guarded = saa.measure(model, (length,), policies, repeats=repeats)
    rows: dict[str, Any] = {"length": length, "dtype": dense.dtype, "policy": str(policy)}
    for what in ("attention_ms", "samples_ms"):
        rounds = zip(*(getattr(timing, what) for timing in (dense, sparse, guarded)), strict=True)
        shares = [(checked - fast) / (slow - fast) for slow, fast, checked in rounds]
        name = "attention" if what == "attention_ms" else WHOLE
        rows[f"{name}_of_saving"] = quartiles(shares)
        rows[f"{name}_ratio"] = sparse.ratio(dense, what)
        rows[f"{name}_ratio_guarded"] = guarded.ratio(dense, what)
    stages = guarded.stages_ms
    saved = sum(dense.stages_ms.values()) - sum(sparse.stages_ms.values())
    rows["guard_ms"] = stages["guard"]
    rows["guard_of_saving"] = stages["guard"] / saved
    return rows | {"timings": [asdict(timing) for timing in (dense, sparse, guarded)]}


def plot(found: dict[str, Any], limit: float, file: Path) -> None:
    """Each request's true missed mass, with and without the guard, by kind of text and of damage."""
    points = [
        {"group": row[group], "side": name, "missed": row[side]["missed"]}
        for part, group in (("requests", "text"), ("damages", "damage"))
        for row in found[part]
        for side, name in (("blind", "without guard"), ("guarded", "with guard"))
    ]
    order = [*ENGLISH, *SHIFTED, *KINDS, OTHER]
    dots = (
        alt.Chart(alt.Data(values=points))
        .mark_tick(thickness=2)
        .encode(
            x=alt.X("missed:Q", title="true missed mass", axis=alt.Axis(format="%")),
            y=alt.Y("group:N", title=None, sort=order),
            color=alt.Color("side:N", title=None, scale=alt.Scale(range=["#e8590c", "#1c7ed6"])),
            yOffset=alt.YOffset("side:N"),
        )
    )
    rule = (
        alt.Chart(alt.Data(values=[{"limit": limit}]))
        .mark_rule(strokeDash=[4, 4])
        .encode(x="limit:Q")
    )
    (dots + rule).properties(width=520, height=alt.Step(14)).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument(
        "--adapter",
        default="saa-joint",
        help="timed for the cost; its gates are those of another model",
    )
    parser.add_argument("--mass", type=float, default=0.95)
    parser.add_argument("--limit", type=float, default=0.05)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--lengths", type=int, nargs="+", default=[300, 1024])
    parser.add_argument("--english", nargs="+", default=list(ENGLISH))
    parser.add_argument("--shifted", nargs="*", default=list(SHIFTED))
    parser.add_argument("--count", type=int, default=20, help="requests per text and length")
    parser.add_argument("--damaged", type=int, default=2, help="requests per damage and length")
    parser.add_argument("--cost-lengths", type=int, nargs="*", default=[4096])
    parser.add_argument("--cost-mass", type=float, default=0.96)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "trust.json")
    options = parser.parse_args()
    guard = saa.Guard(options.limit, options.delta)
    policy = saa.Policy(mass=options.mass)
    model = saa.load(options.model, device="cpu")
    found: dict[str, Any] = {"requests": [], "damages": [], "cost": []}
    if options.out.is_file():
        found = json.loads(options.out.read_text())
    found |= {"limit": options.limit, "delta": options.delta, "policy": str(policy)}

    def run(part: str, about: dict[str, Any], used: saa.Model, texts: list[str]) -> None:
        rows = found[part]
        done = [row for row in rows if about.items() <= row.items()]
        for index, text in enumerate(texts[len(done) :], len(done)):
            cut = fitting(used, text, about["length"])
            done.append(about | {"request": index} | both(used, cut, policy, guard))
            rows.append(done[-1])
            write_json(options.out, found)
        name = about.get("text", about.get("damage"))
        print(f"{about['length']:5} {name:16} {summary(done, options.limit)}", flush=True)

    for length in options.lengths:
        for kind in (*options.english, *options.shifted):
            about = {"text": kind, "shifted": kind in options.shifted, "length": length}
            run("requests", about, model, requests(model, kind, length, options.count))
    other = saa.load(options.model, adapter=options.adapter, device="cpu")
    broken = {kind: damage_gates(model, kind) for kind in KINDS} | {
        OTHER: other_gates(model, other)
    }
    for length in options.lengths:
        texts = requests(model, options.english[0], length, options.damaged)
        for kind, used in broken.items():
            run("damages", {"damage": kind, "length": length}, used, texts)
    for length in options.cost_lengths:
        if any(row["length"] == length for row in found["cost"]):
            continue
        used = saa.Policy(mass=options.cost_mass, fallback="never")
        found["cost"].append(cost(other, used, guard, length, options.repeats))
        write_json(options.out, found)
        row = found["cost"][-1]
        print(
            f"{length:5} guard {row['guard_ms']:.0f} ms, {100 * row['guard_of_saving']:.1f} % of what "
            f"the attention saves; attention {row['attention_ratio'][1]:.2f}x, guarded "
            f"{row['attention_ratio_guarded'][1]:.2f}x",
            flush=True,
        )
    plot(found, options.limit, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
