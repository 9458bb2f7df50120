"""Records the stories that the first page opens on; which they are stands in assets/stories/stories.toml.

    python -m scripts.stories             # runs the texts again and writes everything
    python -m scripts.stories --typical   # only typical.json, from benchmarks/results

A story is one text, run densely and with SAA, and of the kind "guard" once more with a guard. Runs lie beside
stories.toml as TIME-STORY_SIDE.saa, without what the page does not draw; of a text whose pairs were decided a picture
of one head lies there too. work.json holds the operations of tasks' runs against dense. audit.zip is what the Dataset page
offers while it is empty. typical.json says how such runs do on the texts that they were measured on. Only the share
of answers that the guard catches is measured here, on the same test texts.
"""

import argparse
import json
import tempfile
import tomllib
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import saa_core as saa
from app.charts.head import selective_head
from app.charts.map_picture import overview_png
from app.live.models import MODELS
from app.live.passes import flops_share
from app.state.examples import examples
from app.state.stories import FOLDER, WORK, Typical
from benchmarks.page.decks import day_of, day_of_file, machine_of, result_row, wilson
from benchmarks.tasks.understanding import shipped_seeds
from saa_core.certify.slices import rare_texts
from saa_core.cli.main import main as cli
from saa_core.data import fetch, labelled
from saa_core.data.titles import parts_of
from saa_core.files import replacing, write_json
from saa_core.run.classify import answers
from saa_core.store import Store, ids
from saa_core.task import read_task

MARGIN = 0.2
"""Distance of the two most probable labels below which the guard of the story asks the reference model."""
LONG = {"length": 2048, "dtype": "bfloat16"}
LONG_MASS = 0.9
"""Share of attention to keep that benchmarks.speed.prefill measures the joint model with."""
UNCHANGED: dict[str, Any] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--typical", action="store_true", help="only typical.json")
    parser.add_argument("--only", help="the story with this id")
    options = parser.parse_args()
    if not options.typical and options.only is None:
        record_audit()
    if not options.typical:
        entries = tomllib.loads((FOLDER / "stories.toml").read_text(encoding="utf-8"))["story"]
        for entry in entries:
            if options.only in (None, entry["id"]) and entry["model"] in MODELS:
                record(entry)
    if options.only is None:
        write_json(
            FOLDER / "typical.json", {name: asdict(each) for name, each in typical().items()}
        )


def record(entry: dict[str, Any]) -> None:
    """The runs of one story."""
    parts, text = parts_of(entry["model"]), examples()[entry["example"]].text
    kind = entry["kind"]
    sparse = saa.load(parts.model, adapter=parts.adapter, task=parts.task, device="cpu")
    dense = sparse.reference_model if parts.task else saa.load(parts.model, device="cpu")
    changes = {"mass": LONG_MASS} if kind == "long" else UNCHANGED
    policy = replace(sparse.spec.policy, **changes, guard=None)
    runs = {"dense": saa.run(dense, text), "saa": saa.run(sparse, text, policy)}
    if kind == "guard":
        guarded = replace(policy, guard=saa.Guard(missed_mass=None, margin=MARGIN))
        runs["guarded"] = saa.run(sparse, text, guarded)
    if kind in ("long", "embedding"):
        layer, head = selective_head(runs["saa"])
        for theme in ("light", "dark"):
            picture = overview_png(runs["saa"], layer, head, theme == "dark")
            with replacing(FOLDER / f"{entry['id']}_{theme}.png") as file:
                file.write_bytes(picture)
        print(f"{entry['id']}: layer {layer}, head {head}")
    for side, trace in runs.items():
        write(f"{entry['id']}_{side}", trace, keep_states=kind == "embedding")
    if parts.task:
        known = json.loads(WORK.read_text(encoding="utf-8")) if WORK.exists() else {}
        write_json(WORK, known | {entry["id"]: flops_share(sparse, runs["saa"])})


def write(name: str, trace: saa.Trace, keep_states: bool) -> None:
    """One run, in the place of the earlier one of its name."""
    lean = replace(trace, layers=None, attention_received=None, top_ids=None, top_probs=None)
    if not keep_states:
        lean = replace(lean, hidden=None)
    for old in FOLDER.glob("*.saa"):
        if ids.name_of(old.stem) == name:
            old.unlink()
    file = lean.save(FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}.saa")
    print(f"{file}: {trace.label or ''} {trace.keys} tokens, {trace.sparsity:.3f} dropped")


def record_audit() -> None:
    """What fills the Dataset page while no corpus has been audited."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rare.jsonl"
        rows = (json.dumps({"text": rare.text}) + "\n" for rare in rare_texts())
        table.write_text("".join(rows), encoding="utf-8")
        options = ["audit", str(table), "--task", "sentences", "--cut", "--name", "example"]
        store = Path(folder) / "audit"
        assert cli([*options, "--store", str(store)]) == 0
        audited = Store(store)
        audited.export(audited.ids(), FOLDER / "audit.zip")


def typical() -> dict[str, Typical]:
    """What each kind of story does on its test texts, from the results of other benchmarks."""
    prefill = result_row("prefill", LONG | {"method": "SAA, joint"})
    where = machine_of("prefill", prefill)
    own = {"method": "SAA, joint", "length": LONG["length"], "text": "austen", "aim": LONG_MASS}
    perplexity = result_row("frontier", own)
    judged = where | {"recorded": day_of("understanding")}
    return {
        "spam": _of_task("spam", judged),
        "facts": _guarded("facts", _of_task("facts", judged)),
        "long": Typical(
            source="python -m benchmarks.speed.prefill --adapter saa-joint",
            tokens=LONG["length"],
            dtype=LONG["dtype"],
            faster=prefill["prefill_ratio"],
            faster_spread=tuple(prefill["prefill_ratio_quartiles"]),
            work=perplexity["density"],
            worse=perplexity["ppl_increase_pct"] / 100,
            worse_spread=(perplexity["lo"] / 100, perplexity["hi"] / 100),
            **where,
        ),
        "japanese": _of_embedding("e5", "manual-ja"),
        **{task: _of_shipped("e5", task) for task in fetch.list_shipped("tasks", "e5")},
    }


def _of_task(task: str, where: dict[str, Any]) -> Typical:
    row = result_row(
        "understanding",
        {"task": task, "data": task, "seed": shipped_seeds()[task], "default": True},
    )
    return Typical(
        source="python -m benchmarks.tasks.understanding",
        texts=row["texts"],
        changed=row["changed"],
        changed_spread=wilson(row["changed"], row["texts"]),
        work=row["flops_share"],
        faster=row["latency_ratio_b1"],
        faster_spread=tuple(row["latency_quartiles"]),
        tokens=round(row["mean_tokens"]),
        dtype="float32",
        **{**where, "threads": row["threads"]},
    )


def _of_shipped(model: str, task: str) -> Typical:
    """Of a task that was measured when it was trained, and not timed; without a guard, as its story."""
    folder = fetch.assets() / "tasks" / model / task
    about = read_task(folder)
    row = next(
        row
        for row in about.evaluation["quality"]
        if row["wanted"] == about.policy.tokens and row["margin"] == 0
    )
    return Typical(
        source="saa train-task",
        recorded=day_of_file(folder / "task.json"),
        texts=row["texts"],
        changed=row["changed"],
        changed_spread=wilson(row["changed"], row["texts"]),
        work=row["flops_share"],
    )


def _guarded(task: str, alone: Typical) -> Typical:
    """With how many answers the reference model gives, and how many still change, on the same texts."""
    sparse = saa.load("minilm", task=task, side="sparse", device="cpu")
    test = [example.text for example in labelled.read(task) if example.split == "test"]
    test = test[: alone.texts]
    assert sparse.task is not None
    found = sparse.tokenizer(test, truncation=True, max_length=sparse.task.longest, verbose=False)[
        "input_ids"
    ]
    guard = saa.Guard(missed_mass=None, margin=MARGIN)
    full = answers(sparse.reference_model, found).probabilities.argmax(-1)
    guarded = answers(sparse, found, replace(sparse.spec.policy, guard=guard))
    changed = float((guarded.probabilities.argmax(-1) != full).float().mean())
    return replace(
        alone,
        guarded_changed=changed,
        guarded_spread=wilson(changed, len(test)),
        asked=float(guarded.dense.float().mean()),
        margin=MARGIN,
    )


def _of_embedding(model: str, text: str) -> Typical:
    """What the model's gates were measured at when they were made."""
    gates = fetch.assets() / "gates" / model / "gates.json"
    about = json.loads(gates.read_text(encoding="utf-8"))
    default = saa.load(model, device="cpu")
    aim = default.resolve(default.spec.policy, 500).aim
    row = next(
        row
        for row in about["evaluation"]["quality"]
        if row["text"] == text and abs(row["mass"] - aim) < 0.005
    )
    return Typical(
        recorded=day_of_file(gates),
        device="cpu",
        source="saa train --model e5",
        texts=row["windows"],
        tokens=row["length"],
        work=row["density"],
        cosine=row["cosine"],
        cosine_spread=(row["lo"], row["hi"]),
    )


if __name__ == "__main__":
    main()
