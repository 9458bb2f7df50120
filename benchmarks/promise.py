"""Whether promises are kept: a policy chosen on one half of the texts, judged on the other, 20 times.

    python benchmarks/promise.py      # writes benchmarks/results/promise.json

Per shipped task at Sla(label_change=0.01), on texts of its validation and test splits, and for the
language model at Sla(perplexity=0.01), on windows of texts that no gate was trained on. What every
setting of the ladder costs on every text is measured once and kept under ``--cache``, setting by setting, so
that an interrupted run goes on and splits cost nothing. A promise counts as kept where the mean loss
on the other half is within the limit, which is stricter than promised by that half's own chance.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

import saa_core as saa
from saa_core import fetch
from saa_core.corpora import windows
from saa_core.files import cache_dir, write_json
from saa_core.losses import LossMeter, Measured
from saa_core.policy_file import fingerprint
from saa_core.promise import ladder_for, promise_from
from saa_core.slices import by_slice
from saa_core.train import corpus, labelled
from saa_core.types import Policy

RESULTS = Path(__file__).parent / "results"


def kept_losses(
    name: str,
    model: saa.Model,
    baseline: saa.Model | None,
    texts: list[str],
    ladder: list[Policy],
    quantity: str,
    cache: Path,
) -> list[Measured]:
    """The whole ladder on all texts, from the cache where it is there."""
    known = "\0".join([fingerprint(model), quantity, *texts]).encode("utf-8", "surrogatepass")
    file = cache / f"{name.replace(' ', '_')}-{hashlib.sha256(known).hexdigest()[:12]}.json"
    stored: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    meter: LossMeter | None = None
    found = []
    for policy in tqdm(ladder, desc=name, unit="setting"):
        key = json.dumps(asdict(policy), sort_keys=True)
        if key not in stored:
            meter = meter or LossMeter(model, texts, quantity, baseline)
            measured = meter.of(policy)
            stored[key] = {"losses": measured.losses, "work": measured.work}
            write_json(file, stored)
        found.append(Measured(policy, *map(tuple, stored[key].values())))
    return found


def judged(
    name: str, sla: saa.Sla, ladder: list[Measured], texts: list[str], splits: int
) -> dict[str, Any]:
    """The splits, how often the promise was kept, and the slices of the setting chosen on all texts."""
    rows = []
    for seed in range(splits):
        order = list(range(len(texts)))
        random.Random(seed).shuffle(order)
        half = len(order) // 2
        promise = promise_from(sla, (each.part(order[:half]) for each in ladder))
        loss, work = 0.0, 1.0
        if promise.policy is not None:
            chosen = next(each for each in ladder if each.policy == promise.policy)
            other = chosen.part(order[half:])
            loss, work = float(sla.clipped(other.losses).mean()), other.mean_work
        rows.append(
            {
                "policy": str(promise.policy) if promise.policy else "dense",
                "reason": promise.reason,
                "needed": promise.needed,
                "loss": loss,
                "work": work,
                "kept": loss <= sla.limit,
            }
        )
    whole = promise_from(sla, iter(ladder))
    shown = next((each for each in ladder if each.policy == whole.policy), ladder[0])
    return {
        "name": name,
        "sla": asdict(sla),
        "texts": len(texts),
        "splits": rows,
        "kept": sum(row["kept"] for row in rows),
        "dense": sum(row["policy"] == "dense" for row in rows),
        "mean_work": sum(row["work"] for row in rows) / len(rows),
        "ladder": [
            {
                "policy": str(each.policy),
                "loss": float(sla.clipped(each.losses).mean()),
                "unclipped": sum(each.losses) / len(each.losses),
                "work": each.mean_work,
            }
            for each in ladder
        ],
        "all_texts": str(whole),
        "slices": {
            "policy": str(shown.policy),
            "rows": [asdict(each) for each in by_slice(texts, shown, sla)],
        },
    }


def tasks(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per task and, after it, the next."""
    sla = saa.Sla(label_change=options.label_change, delta=options.delta, margin=options.margin)
    for task in fetch.shipped("tasks", "minilm") if options.tasks is None else options.tasks:
        model, dense = (
            saa.load("minilm", task=task, side=side, device="cpu") for side in ("sparse", "dense")
        )
        assert model.task is not None
        held = [e.text for e in labelled.read(model.task.name) if e.split != "train"]
        texts = held[: options.texts]
        ladder = ladder_for(model, sla)[: options.settings]
        name = f"minilm + {model.task.name}"
        measured = kept_losses(name, model, dense, texts, ladder, sla.quantity, options.cache)
        yield judged(name, sla, measured, texts, options.splits)


def language_model(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each adapter that is asked for; "none" is the model as it is."""
    sla = saa.Sla(perplexity=options.perplexity, delta=options.delta, margin=options.margin)
    for adapter in options.adapters:
        original = saa.load("smollm2", device="cpu")
        model = original
        if adapter != "none":
            model = saa.load("smollm2", adapter=adapter, device="cpu")
        documents = [d for d in corpus.documents(options.data) if d.split == "heldout"]
        parts = [part for d in documents for part in cut(model, d.text, options.length)]
        random.Random(0).shuffle(parts)
        texts = parts[: options.windows]
        ladder = ladder_for(model, sla)[: options.settings]
        name = model.spec.title
        measured = kept_losses(name, model, original, texts, ladder, sla.quantity, options.cache)
        yield judged(name, sla, measured, texts, options.splits) | {"tokens": options.length}


def cut(model: saa.Model, text: str, length: int) -> list[str]:
    """Windows of a document; none of one that is shorter."""
    try:
        return windows(model, text, length)
    except saa.TextError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", help="names or folders; all shipped ones by default")
    parser.add_argument("--adapters", nargs="*", default=["none", "saa-joint"])
    parser.add_argument("--data", nargs="+", default=["wikipedia"], help="for the language model")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--texts", type=int, default=2000, help="per task at most")
    parser.add_argument("--settings", type=int, help="of each ladder, from the safest")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--label-change", type=float, default=0.01)
    parser.add_argument("--perplexity", type=float, default=0.01)
    parser.add_argument("--delta", type=float, default=saa.Sla.delta)
    parser.add_argument("--margin", type=float, default=saa.Sla.margin)
    parser.add_argument("--cache", type=Path, default=cache_dir() / "promise")
    parser.add_argument("--out", type=Path, default=RESULTS / "promise.json")
    options = parser.parse_args()
    rows = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else []
    for part in (tasks, language_model):
        for row in part(options):
            rows = [old for old in rows if old["name"] != row["name"]] + [row]
            write_json(options.out, sorted(rows, key=lambda each: str(each["name"])))
            print(
                f"{row['name']}: kept {row['kept']} of {len(row['splits'])}, dense {row['dense']}, mean "
                f"work {100 * row['mean_work']:.1f} %; on all {row['texts']} texts: {row['all_texts']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
