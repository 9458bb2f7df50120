"""Whether `saa tune` finds a policy at least as good as those that one would set by hand, on two domains.

    python -m benchmarks.trust.tune --minutes 20     # writes benchmarks/results/tune.json and .svg

A task with labels at RiskLimit(label_change=..), and the language model on windows of texts that no gate was
trained on at RiskLimit(perplexity=..). Each is tuned for --minutes on one part of the texts, as `saa tune` does it;
then the tuned policy, the shipped default and some hand-set ones are measured on the other part, which
neither the search nor the certification saw. "Better" is a policy that keeps to the limit there with less
work. A domain whose policy stands under --folder is not tuned again, only compared.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt

import saa_core as saa
from saa_core.certify.degradation import Degradation, DegradationMeter
from saa_core.certify.policy_file import save_policy
from saa_core.certify.tune import TuneConfig, Tuned, tune
from saa_core.certify.tune_files import describe_policy, write_results
from saa_core.cli.bars import Bars
from saa_core.data import corpus, labelled
from saa_core.files import cache_dir, write_json
from saa_core.run.corpora import cut_windows

RESULTS = Path(__file__).parent.parent / "results"
MASSES = (0.95, 0.93, 0.9)
SHARES = (0.6, 0.5)
TUNED = "tuned"
DEFAULT = "shipped default"


@dataclass(frozen=True)
class Domain:
    """Texts of one kind, apart: those that tune, and those that compare."""

    name: str
    model: saa.Model
    baseline: saa.Model
    sla: saa.RiskLimit
    texts: list[str]
    held: list[str]
    by_hand: dict[str, saa.Policy]


def task_domain(options: argparse.Namespace) -> Domain:
    """Texts of a task's validation and test splits, in a random order."""
    model, dense = (
        saa.load("minilm", task=options.task, side=side, device="cpu")
        for side in ("sparse", "dense")
    )
    assert model.task is not None
    source = options.source or model.task.name
    texts = [each.text for each in labelled.read(source) if each.split != "train"]
    default = model.spec.policy
    by_hand = {f"tokens {s:g}": replace(default, tokens=s, guard=None) for s in SHARES}
    sla = saa.RiskLimit(label_change=options.label_change)
    return _domain(f"minilm + {model.task.name}", model, dense, sla, texts, by_hand, options)


def text_domain(options: argparse.Namespace) -> Domain:
    """Windows of held-out documents, in a random order."""
    model = saa.load("smollm2", device="cpu")
    documents = [d for d in corpus.documents(options.data) if d.split == "heldout"]
    windows = [part for d in documents for part in cut_windows(model, d.text, options.length)]
    default = model.spec.policy
    by_hand = {f"mass {m:g}": replace(default, mass=m, guard=None) for m in MASSES}
    sla = saa.RiskLimit(perplexity=options.perplexity)
    name = f"smollm2, {', '.join(Path(each).name for each in options.data)}"
    return _domain(name, model, model, sla, windows, by_hand, options)


def _domain(
    name: str,
    model: saa.Model,
    baseline: saa.Model,
    sla: saa.RiskLimit,
    texts: list[str],
    by_hand: dict[str, saa.Policy],
    options: argparse.Namespace,
) -> Domain:
    once = list({labelled.normalise(text): text for text in texts}.values())
    random.Random(0).shuffle(once)
    most = options.texts if sla.quantity == "label_change" else options.windows
    once = once[:most]
    count = round(options.held * len(once))
    by_hand = {DEFAULT: model.spec.policy} | by_hand
    return Domain(name, model, baseline, sla, once[count:], once[:count], by_hand)


def tune_domain(domain: Domain, folder: Path, options: argparse.Namespace) -> saa.StoredPolicy:
    """What the search certified, from the folder where it is there."""
    file = folder / "policy.json"
    if not file.is_file():
        bars = Bars("s")
        config = TuneConfig(minutes=options.minutes, trials=options.trials)
        model, baseline = domain.model, domain.baseline

        def write(found: Tuned) -> None:
            write_results(folder, found)
            data = {"searched": found.searched, "certified": found.certified}
            data |= {"trials": len(found.trials), "minutes": options.minutes}
            save_policy(
                file, found.promise, model, data=data, command="python -m benchmarks.trust.tune"
            )

        try:
            tune(
                *(model, domain.texts, domain.sla, folder, config),
                baseline=baseline,
                progress=bars,
                write=write,
            )
        finally:
            bars.close()
    stored = saa.load_policy(file)
    if stored.policy is not None:
        stored.check(domain.model)
    return stored


def compare_sides(domain: Domain, stored: saa.StoredPolicy) -> Iterator[dict[str, Any]]:
    """Loss and work of each policy on the texts that compare."""
    meter = DegradationMeter(domain.model, domain.held, domain.sla.quantity, domain.baseline)
    for name, policy in {TUNED: stored.policy, **domain.by_hand}.items():
        if policy is None:  # stays dense
            measured = Degradation(saa.Policy(mass=1.0), (0.0,) * len(meter), (1.0,) * len(meter))
        else:
            measured = meter.of(policy)
        loss = float(domain.sla.clipped(measured.losses).mean())
        low, high = domain.sla.interval(measured.losses)
        yield {
            "name": name,
            "policy": "dense" if policy is None else describe_policy(policy),
            "loss": loss,
            "low": low,
            "high": high,
            "work": measured.mean_work,
            "within": loss <= domain.sla.limit,
        }


def better(rows: list[dict[str, Any]]) -> list[str]:
    """Policies that keep to the limit with less work than the tuned one; all that keep to it, where the
    tuned one does not."""
    own = next(row for row in rows if row["name"] == TUNED)
    others = [row for row in rows if row is not own and row["within"]]
    return [row["name"] for row in others if not own["within"] or row["work"] < own["work"]]


def plot(domains: list[dict[str, Any]], file: Path) -> None:
    """Loss over work of each policy with its 95 % interval, and the limit. Policies at the same place share
    a mark."""
    drawn = []
    for domain in domains:
        places: dict[tuple[float, float], list[str]] = {}
        for row in domain["rows"]:
            places.setdefault((row["loss"], row["work"]), []).append(row["name"])
        rows = [
            row | {"name": ", ".join(names)}
            for row in domain["rows"]
            if row["name"] == (names := places[row["loss"], row["work"]])[0]
        ]
        base = alt.Chart(alt.Data(values=rows)).encode(
            x=alt.X("work:Q", title="work, share of dense", axis=alt.Axis(format="%"))
        )
        title = domain["quantity"].replace("_", " ")
        axis = alt.Axis(format=".1%")
        bars = base.mark_rule(opacity=0.5).encode(
            y=alt.Y("low:Q", title=title, axis=axis), y2="high:Q"
        )
        colour = alt.condition(alt.datum.name == TUNED, alt.value("#1c7ed6"), alt.value("#868e96"))
        dots = base.mark_point(filled=True, size=60).encode(y="loss:Q", color=colour)
        names = base.mark_text(align="left", dx=8, angle=315).encode(y="loss:Q", text="name:N")
        limit = alt.Chart(alt.Data(values=[{"limit": domain["limit"]}]))
        rule = limit.mark_rule(strokeDash=[4, 4], color="#e8590c").encode(y="limit:Q")
        drawn.append((bars + dots + names + rule).properties(title=domain["name"], width=420))
    alt.vconcat(*drawn).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="of tuning, per domain")
    parser.add_argument("--trials", type=int, help="settings to try at most")
    parser.add_argument("--domains", nargs="+", default=["task", "text"], choices=["task", "text"])
    parser.add_argument("--task", default="spam")
    parser.add_argument("--source", help="table of the task's texts; its own source by default")
    parser.add_argument("--label-change", type=float, default=0.02)
    parser.add_argument("--texts", type=int, default=2000, help="of the task at most")
    parser.add_argument("--data", nargs="+", default=["wikipedia"])
    parser.add_argument("--length", type=int, default=640, help="tokens per window")
    parser.add_argument("--perplexity", type=float, default=0.01)
    parser.add_argument("--windows", type=int, default=260, help="at most")
    parser.add_argument("--held", type=float, default=0.3, help="share of the texts that compare")
    parser.add_argument("--folder", type=Path, default=cache_dir() / "tune", help="of the studies")
    parser.add_argument("--out", type=Path, default=RESULTS / "tune.json")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    if options.out.is_file():
        found = json.loads(options.out.read_text("utf-8"))
    for kind in options.domains:
        domain = task_domain(options) if kind == "task" else text_domain(options)
        stored = tune_domain(domain, options.folder / kind, options)
        rows = list(compare_sides(domain, stored))
        about = {
            "name": domain.name,
            "quantity": domain.sla.quantity,
            "limit": domain.sla.limit,
            "sla": asdict(domain.sla),
            "tuning": dict(stored.data),
            "compared": len(domain.held),
            "promise": None if stored.promise is None else str(stored.promise),
            "rows": rows,
            "better": better(rows),
        }
        found = [old for old in found if old["name"] != domain.name] + [about]
        write_json(options.out, found)
        print(f"{domain.name}: {about['promise']}", flush=True)
        for row in rows:
            print(
                f"  {row['name']:16} {row['policy']:32} loss {100 * row['loss']:.2f} % "
                f"({100 * row['low']:.2f} to {100 * row['high']:.2f}), work {100 * row['work']:.1f} %",
                flush=True,
            )
        print(f"  better by hand: {', '.join(about['better']) or 'none'}", flush=True)
    plot(found, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
