"""Retrieval: does the sparse model still find one sentence hidden in a long text?

    python -m benchmarks.quality.retrieval --adapter saa-joint   # writes results/retrieval.json and .svg

Averages over a text hide such failures. Into a text that no gate was trained on, sentences like "The
password of Clara is mango." are hidden at ten depths; behind it the model is asked for each of them
(:mod:`benchmarks.quality.needles`). It is right if the hidden word is likelier than every distractor: the words
of the other nine sentences and ten that occur nowhere. The original dense model, the gate and the adapter at
their shipped default, and rules without training at the same density as the last of them, read the same texts.
Three ways of asking: "together", all questions with their answers at the end of the text, read sparsely like the
rest but for its last tokens; "apart", each by itself behind a text that was read sparsely once, as in a chat
about a document; "two facts", as apart, where the answer needs two sentences that stand far apart.
Resumable, text by text: what is in the file is not measured again.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import torch

import saa_core as saa
from benchmarks.quality.baselines import restore, swap
from benchmarks.quality.needles import APART, TOGETHER, WAYS, Haystack, margins
from benchmarks.resume import read_rows
from saa_core.bounds import student_interval
from saa_core.data import corpus
from saa_core.families import family_of
from saa_core.files import write_json

RESULTS = Path(__file__).parent.parent / "results"
DENSE, DISTILLED, JOINT = "dense", "SAA, distilled", "SAA, joint"
WINDOW, ANTIDIAGONAL = "sink + window", "antidiagonal"
RULES = (WINDOW, ANTIDIAGONAL)
"""Rules that need no training; they get the density of the gate, and read the end densely as it does."""
SAVE_EVERY = 10
"""Texts between two writes of the file."""


def title(row: dict[str, Any]) -> str:
    mass = f", mass {row['mass']:g}" if row["mass"] else ""
    return row["method"] + mass + ("" if row["tail"] is None else f", tail {row['tail']}")


def hits(row: dict[str, Any]) -> list[float]:
    """Share of the questions that were answered, by text."""
    return [fmean(float(margin > 0) for margin in one) for one in row["margins_nats"]]


def against(row: dict[str, Any], dense: dict[str, Any]) -> tuple[float, float, float]:
    """Dense less this method on the texts both read: mean, and 95 % interval over texts; shares."""
    pairs = list(zip(hits(dense), hits(row), strict=False))
    lost = [before - after for before, after in pairs]
    return fmean(lost), *student_interval(lost)


@contextmanager
def scored_by(model: saa.Model, scorer: str | None):
    """The model with a rule in the place of its gates."""
    if scorer is None:
        yield
        return
    modules = family_of(model.hf).attentions(model.hf)
    gates = swap(modules, scorer)
    try:
        yield
    finally:
        restore(modules, gates)


class Method:
    """One way of reading a text.

    Args:
        policy: None is dense.
        scorer: of baselines, in the place of the gates.
    """

    def __init__(
        self, name: str, model: saa.Model, policy: saa.Policy | None, scorer: str | None = None
    ) -> None:
        self.name, self.model, self.policy, self.scorer = name, model, policy, scorer

    @property
    def about(self) -> dict[str, Any]:
        """What a row says of it; the mass is None of dense and of rules."""
        policy = self.policy
        mass = policy.mass if policy is not None and self.name not in RULES else None
        tail = None if policy is None else policy.tail
        return {"method": self.name, "mass": mass, "tail": tail}

    def read(self, haystack: Haystack) -> tuple[list[float], float]:
        """(margin by question, density)."""
        call = saa.Call(self.policy, record="summary")
        with scored_by(self.model, self.scorer):
            found = margins(self.model, haystack, call)
        return found, float(torch.stack([r.density for r in call.layers.values()]).mean())


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("questions", "method", "length", "mass", "tail", "dtype"))


class Table:
    """The rows of the file; one per way, method, length and setting."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = {key(row): row for row in read_rows(file)}

    def measure(
        self, about: dict[str, Any], method: Method, make: Any, texts: int
    ) -> dict[str, Any]:
        """Goes on with a row until it has so many texts; ``make`` gives the haystack of a seed."""
        row: dict[str, Any] = about | method.about | {"densities": [], "margins_nats": []}
        row = self.rows.setdefault(key(row), row)
        for seed in range(len(row["margins_nats"]), texts):
            found, density = method.read(make(seed))
            row["margins_nats"].append([round(margin, 4) for margin in found])
            row["densities"].append(round(density, 5))
            if (seed + 1) % SAVE_EVERY == 0 or seed + 1 == texts:
                write_json(self.file, list(self.rows.values()))
        share = hits(row)
        print(
            f"{row['length']:5} {row['questions']:9} {row['method']:15} mass {row['mass'] or 1:.2f} "
            f"density {fmean(row['densities']):.3f} found {100 * fmean(share):.1f} % of "
            f"{sum(map(len, row['margins_nats']))}",
            flush=True,
        )
        return row


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Share found by length, a point per method, with intervals over texts; a panel per way of asking."""
    drawn = []
    for row in rows:
        share = hits(row)
        lo, hi = student_interval(share) if len(share) > 1 else (share[0], share[0])
        about = {"questions": row["questions"], "length": row["length"], "name": title(row)}
        drawn.append(about | {"found": fmean(share), "lo": max(0.0, lo), "hi": min(1.0, hi)})
    base = alt.Chart(alt.Data(values=drawn)).encode(
        x=alt.X("length:O", title="tokens", axis=alt.Axis(labelAngle=0)),
        xOffset="name:N",
        color=alt.Color("name:N", title=None),
    )
    points = base.mark_point(filled=True, size=70).encode(
        y=alt.Y(
            "found:Q",
            title="hidden word found",
            axis=alt.Axis(format="%"),
            scale=alt.Scale(domain=[0, 1]),
        )
    )
    (points + base.mark_rule().encode(y="lo:Q", y2="hi:Q")).properties(width=320, height=260).facet(
        alt.Facet("questions:N", title="questions asked (95 % intervals over texts)")
    ).save(file)


def gated(
    name: str, model: saa.Model, masses: Sequence[float] | None, tail: int | None, length: int
) -> list[Method]:
    """A model's gate at each mass, the shipped default where none is given."""
    plain = replace(model.spec.policy, granularity="block", fallback="never", tail=tail)
    default = replace(model.resolve(plain, length), default_at=None)
    found = [replace(default, mass=mass) for mass in masses or [default.aim]]
    return [Method(name, model, policy) for policy in found]


def ruled(name: str, model: saa.Model, density: float, tail: int, length: int) -> Method:
    """A rule without training at about so many pairs, the densely read end included."""
    plain = saa.Policy(budget=density, granularity="block", fallback="never", tail=tail)
    if name == ANTIDIAGONAL:
        return Method(name, model, plain, ANTIDIAGONAL)
    # Of a causal triangle a window of share w holds 1 - (1 - w)^2; the end holds its rows whole.
    end = 1 - (1 - tail / length) ** 2
    share = 1 - (1 - max(0.0, (density - end) / (1 - end))) ** 0.5
    local = max(1, round(share * (length - tail)))
    return Method(name, model, replace(plain, budget=None, mass=1e-9, local=local))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", help="also measure this adapter")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--masses", type=float, nargs="+", help="the shipped default by default")
    parser.add_argument("--tail", type=int, help="last tokens read densely; the default by default")
    parser.add_argument(
        "--texts",
        type=int,
        default=6,
        help="haystacks per length, ten (two facts: five) questions each",
    )
    parser.add_argument("--questions", nargs="+", default=[TOGETHER, APART], choices=WAYS)
    parser.add_argument(
        "--methods", nargs="+", choices=(DISTILLED, JOINT, *RULES), help="beside dense"
    )
    parser.add_argument("--source", default="austen", help="source or file to hide sentences in")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--minutes", type=float, help="stop after this long; go on another time")
    parser.add_argument("--out", type=Path, default=RESULTS / "retrieval.json")
    options = parser.parse_args()
    load = functools.partial(saa.load, options.model, device="cpu", dtype=options.dtype)
    models = {DISTILLED: load()}
    original = models[DISTILLED]
    if options.adapter:
        models[JOINT] = load(adapter=options.adapter)
    wanted = options.methods or list(models)
    (text,) = corpus.join_documents(corpus.documents([options.source]), "heldout").values()
    ids = original.tokenize(text)
    table = Table(options.out)
    started = time.monotonic()
    for length in options.lengths:
        for way in options.questions:
            if options.minutes and time.monotonic() - started > 60 * options.minutes:
                print("time is up; run again to go on", file=sys.stderr)
                return

            def make(seed: int, length: int = length, way: str = way) -> Haystack:
                return Haystack(original, ids, length, seed, way)

            about = {"questions": way, "length": length, "dtype": options.dtype}
            dense = Method(DENSE, original, None)
            table.measure(about, dense, make, options.texts)
            rows = []
            for name in (name for name in models if name in wanted):
                for method in gated(name, models[name], options.masses, options.tail, length):
                    rows.append(table.measure(about, method, make, options.texts))
            for name in (name for name in RULES if name in wanted):
                if not rows:
                    raise SystemExit("--methods: a rule gets the density of a gate; name one too")
                density = round(fmean(rows[-1]["densities"]), 3)
                method = ruled(name, original, density, rows[-1]["tail"], length)
                table.measure(about, method, make, options.texts)
    plot(list(table.rows.values()), options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
