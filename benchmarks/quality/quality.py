"""Perplexity increase against density on texts that no gate was trained on.

    python -m benchmarks.quality.quality            # writes benchmarks/results/quality.json and .svg

Resumable: a finished (text, length) is not measured again unless --fresh is given. publish.py carries the figures
into the gate folder and docs/results.md.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import altair as alt

import saa_core as saa
from benchmarks.resume import read_rows
from saa_core.data import corpus
from saa_core.files import write_json
from saa_core.train.evaluate import evaluate

RESULTS = Path(__file__).parent.parent / "results"
MASSES = (0.9, 0.93, 0.95, 0.97)
SOURCES = ("austen", "wikipedia")
TITLES = {"austen": "Persuasion (held-out novel)", "wikipedia": "Wikipedia articles"}
LIMIT_PCT = 1.0
"""The shipped policy may raise perplexity by at most this much at any measured length."""


def measure(
    model: saa.Model,
    texts: dict[str, str],
    lengths: list[int],
    masses: list[float],
    windows: int,
    out: Path,
    baseline: saa.Model | None = None,
) -> list[dict[str, object]]:
    """Rows of all texts and lengths; those already in ``out`` are kept."""
    rows = read_rows(out)
    for length in lengths:
        for name, text in texts.items():
            done = {row["mass"] for row in rows if (row["length"], row["text"]) == (length, name)}
            todo = [saa.Policy(mass=mass) for mass in masses if mass not in done]
            if not todo:
                continue

            def report(done: int, total: int, where: str = f"{name}, {length} tokens") -> None:
                print(f"{where}: window {done} of {total}", file=sys.stderr, flush=True)

            found = evaluate(
                *(model, text, name, length, todo),
                windows=windows,
                baseline=baseline,
                progress=report,
            )
            rows += [{"method": "saa", "gate": model.spec.gate} | asdict(row) for row in found]
            write_json(out, rows)
            for row in found:
                print(
                    f"{row.text:10} {row.length:5} mass {row.mass:.2f} density {row.density:.3f} "
                    f"ppl {row.ppl_increase_pct:+.2f} % ({row.lo:+.2f} to {row.hi:+.2f})",
                    flush=True,
                )
    return rows


def plot(rows: list[dict[str, object]], file: Path) -> None:
    """Perplexity increase over density, a line per length, a panel per text."""
    titled = [row | {"panel": TITLES.get(str(row["text"]), str(row["text"]))} for row in rows]
    base = alt.Chart(alt.Data(values=titled)).encode(
        x=alt.X("density:Q", title="density: kept / allowed pairs", axis=alt.Axis(format="%")),
        color=alt.Color("length:O", title="tokens", scale=alt.Scale(scheme="viridis")),
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("ppl_increase_pct:Q", title="perplexity increase over dense, %"),
        order="density:Q",
    )
    band = base.mark_rule(opacity=0.4).encode(y="lo:Q", y2="hi:Q")
    chart = (
        (line + band)
        .properties(width=320, height=260)
        .facet(column=alt.Column("panel:N", title=None))
    )
    chart.save(file)


def choose(rows: list[dict[str, object]]) -> float | None:
    """The lowest mass whose increase stays under the limit at every length and text."""
    for mass in sorted({float(str(row["mass"])) for row in rows}):
        if all(row["ppl_increase_pct"] <= LIMIT_PCT for row in rows if row["mass"] == mass):
            return mass
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--gates", help="gate folder; the shipped one by default")
    parser.add_argument("--adapter", help="of the model; the increase counts from the original")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--masses", type=float, nargs="+", default=list(MASSES))
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--texts", nargs="+", default=list(SOURCES), help="sources or files")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.json")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    options = parser.parse_args()
    if options.fresh:
        options.out.unlink(missing_ok=True)
    model = saa.load(options.model, gates=options.gates, adapter=options.adapter, device="cpu")
    baseline = saa.load(options.model, device="cpu") if options.adapter else None
    texts = corpus.join_documents(corpus.documents(options.texts), "heldout")
    rows = measure(
        *(model, texts, options.lengths, options.masses, options.windows, options.out, baseline)
    )
    plot(rows, options.out.with_suffix(".svg"))
    print(f"lowest mass within {LIMIT_PCT} % everywhere: {choose(rows)}")


if __name__ == "__main__":
    main()
