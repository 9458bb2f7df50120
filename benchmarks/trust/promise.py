"""Whether promises are kept: a policy chosen on one half of the texts, judged on the other, 20 times.

    python -m benchmarks.trust.promise      # writes benchmarks/results/promise.json and .svg

Per shipped task at RiskLimit(label_change=0.01), on texts of its validation and test splits, and for the
language model at RiskLimit(perplexity=0.01), on windows of texts that no gate was trained on. What a
setting of the ladder costs on every text is measured once, when the first split asks for it, and kept under
``--cache``, so that an interrupted run goes on and splits cost nothing. A promise counts as kept where the mean loss
on the other half is within the limit, which is stricter than promised by that half's own chance.
"""

import argparse
import functools
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import altair as alt
from tqdm import tqdm

import saa_core as saa
from benchmarks.resume import read_rows
from saa_core.certify.certificate import certificate_from, ladder_for
from saa_core.certify.degradation import Degradation, DegradationMeter
from saa_core.certify.limits import QUANTITIES
from saa_core.certify.slices import by_slice
from saa_core.data import corpus, fetch, labelled
from saa_core.files import cache_dir, write_json
from saa_core.model import fingerprint
from saa_core.run.corpora import split_windows
from saa_core.types import Policy

RESULTS = Path(__file__).parent.parent / "results"


class Ladder:
    """The settings in turn, each measured on all texts when it is first asked for and kept in a file.

    Tests end at the first setting that fails, so what lies behind it is never measured.
    """

    def __init__(
        self,
        name: str,
        model: saa.Model,
        baseline: saa.Model | None,
        texts: list[str],
        policies: list[Policy],
        quantity: str,
        cache: Path,
    ) -> None:
        self.policies = policies
        self.found = list[Degradation]()
        self._meter = functools.cache(lambda: DegradationMeter(model, texts, quantity, baseline))
        known = "\0".join([*astuple(fingerprint(model)), quantity, *texts]).encode(
            "utf-8", "surrogatepass"
        )
        digest = hashlib.sha256(known).hexdigest()[:12]
        self._file = cache / f"{name.replace(' ', '_')}-{digest}.json"
        self._stored: dict[str, Any] = {}
        if self._file.is_file():
            self._stored = json.loads(self._file.read_text("utf-8"))
        self._shown = tqdm(total=len(policies), desc=name, unit="setting")

    def __iter__(self) -> Iterator[Degradation]:
        for place, policy in enumerate(self.policies):
            if place == len(self.found):
                self.found.append(self._measure(policy))
                self._shown.update()
            yield self.found[place]

    def _measure(self, policy: Policy) -> Degradation:
        key = json.dumps(asdict(policy), sort_keys=True)
        if key not in self._stored:
            measured = self._meter().of(policy)
            self._stored[key] = {"losses": measured.losses, "work": measured.work}
            write_json(self._file, self._stored)
        return Degradation(policy, *map(tuple, self._stored[key].values()))


def judge(
    name: str, sla: saa.RiskLimit, ladder: Ladder, texts: list[str], splits: int
) -> dict[str, Any]:
    """The splits, how often the promise was kept, and the slices of the setting chosen on all texts."""
    rows = []
    for seed in range(splits):
        order = list(range(len(texts)))
        random.Random(seed).shuffle(order)
        half = len(order) // 2
        promise = certificate_from(sla, (each.part(order[:half]) for each in ladder))
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
    whole = certificate_from(sla, ladder)
    shown = next((each for each in ladder.found if each.policy == whole.policy), ladder.found[0])
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
            for each in ladder.found
        ],
        "all_texts": str(whole),
        "slices": {
            "policy": str(shown.policy),
            "rows": [asdict(each) for each in by_slice(texts, shown, sla)],
        },
    }


def tasks(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per task and, after it, the next."""
    sla = saa.RiskLimit(
        label_change=options.label_change, delta=options.delta, margin=options.margin
    )
    for task in fetch.list_shipped("tasks", "minilm") if options.tasks is None else options.tasks:
        model, dense = (
            saa.load("minilm", task=task, side=side, device="cpu") for side in ("sparse", "dense")
        )
        assert model.task is not None
        held = [e.text for e in labelled.read(model.task.name) if e.split != "train"]
        texts = held[: options.texts]
        policies = ladder_for(model, sla)[: options.settings]
        name = f"minilm + {model.task.name}"
        ladder = Ladder(name, model, dense, texts, policies, sla.quantity, options.cache)
        yield judge(name, sla, ladder, texts, options.splits)


def language_model(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each adapter that is asked for; "none" is the model as it is."""
    sla = saa.RiskLimit(perplexity=options.perplexity, delta=options.delta, margin=options.margin)
    for adapter in options.adapters:
        original = saa.load("smollm2", device="cpu")
        model = original
        if adapter != "none":
            model = saa.load("smollm2", adapter=adapter, device="cpu")
        documents = [d for d in corpus.documents(options.data) if d.split == "heldout"]
        parts = [
            part for d in documents for part in split_windows(model, d.text, options.length)[0]
        ]
        random.Random(0).shuffle(parts)
        texts = parts[: options.windows]
        policies = ladder_for(model, sla)[: options.settings]
        name = model.spec.title
        ladder = Ladder(name, model, original, texts, policies, sla.quantity, options.cache)
        yield judge(name, sla, ladder, texts, options.splits) | {"tokens": options.length}


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """The slices of each task and model under the setting that all texts certify, worst first: mean and
    95 % interval, and the limit. Where all texts certify nothing, the safest setting is shown."""
    drawn = []
    for row in sorted(rows, key=lambda each: str(each["name"])):
        known = [each for each in row["slices"]["rows"] if each["loss"] is not None]
        values = [each | {"slice": f"{each['name']} ({each['texts']})"} for each in known]
        order = [each["slice"] for each in values]
        quantity = next(name for name in QUANTITIES if row["sla"][name] is not None)
        base = alt.Chart(alt.Data(values=values)).encode(y=alt.Y("slice:N", title=None, sort=order))
        axis = alt.Axis(format=".1%")
        bars = base.mark_rule().encode(
            x=alt.X("low:Q", title=quantity.replace("_", " "), axis=axis), x2="high:Q"
        )
        dots = base.mark_point(filled=True, size=50).encode(x="loss:Q")
        limit = alt.Chart(alt.Data(values=[{"limit": row["sla"][quantity]}]))
        rule = limit.mark_rule(strokeDash=[4, 4], color="#e8590c").encode(x="limit:Q")
        title = f"{row['name']}: {row['slices']['policy']}"
        drawn.append((bars + dots + rule).properties(title=title, width=420))
    alt.vconcat(*drawn).save(file)


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
    parser.add_argument("--delta", type=float, default=saa.RiskLimit.delta)
    parser.add_argument("--margin", type=float, default=saa.RiskLimit.margin)
    parser.add_argument("--cache", type=Path, default=cache_dir() / "promise")
    parser.add_argument("--out", type=Path, default=RESULTS / "promise.json")
    options = parser.parse_args()
    rows = read_rows(options.out)
    for part in (tasks, language_model):
        for row in part(options):
            rows = [old for old in rows if old["name"] != row["name"]] + [row]
            write_json(options.out, sorted(rows, key=lambda each: str(each["name"])))
            plot(rows, options.out.with_suffix(".svg"))
            print(
                f"{row['name']}: kept {row['kept']} of {len(row['splits'])}, dense {row['dense']}, mean "
                f"work {100 * row['mean_work']:.1f} %; on all {row['texts']} texts: {row['all_texts']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
