"""Which block size? Quality and time of several, by length: fine blocks need fewer pairs, coarse ones
run faster per pair.

    python -m benchmarks.quality.blocks             # writes benchmarks/results/blocks.json and .svg

Same gates for all sizes (they were trained with several). Quality is counted from the original dense
model on a held-out novel; attention is timed in turn with dense, gate and rule inside.
"""

import argparse
from pathlib import Path
from typing import Any

import altair as alt

import saa_core as saa
from benchmarks.resume import read_rows
from saa_core.data import corpus
from saa_core.files import write_json
from saa_core.train.evaluate import evaluate

RESULTS = Path(__file__).parent.parent / "results"
BLOCKS = ((16, 16), (32, 16), (32, 32), (64, 32), (64, 64))
MASSES = (0.85, 0.9, 0.93)


def measure(
    model: saa.Model,
    original: saa.Model,
    text: str,
    length: int,
    block: tuple[int, int],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A row per mass: density, perplexity increase, how many times faster the attention is."""
    policies = [
        saa.Policy(mass=m, granularity="block", block=block, fallback="never")
        for m in options.masses
    ]
    found = evaluate(
        model, text, options.source, length, policies, windows=options.windows, baseline=original
    )
    dense, *timings = saa.measure(model, (length,), (None, *policies), repeats=options.repeats)
    rows = []
    for quality, timing in zip(found, timings, strict=True):
        low, middle, high = timing.ratio(dense, "attention_ms")
        rows.append(
            {
                "model": model.spec.title,
                "text": options.source,
                "length": length,
                "block": f"{block[0]} x {block[1]}",
                "mass": quality.mass,
                "density": quality.density,
                "ppl_increase_pct": quality.ppl_increase_pct,
                "lo": quality.lo,
                "hi": quality.hi,
                "windows": quality.windows,
                "attention_ratio": middle,
                "attention_ratio_quartiles": [low, high],
                "attention_ms": {"dense": dense.attention_ms, "saa": timing.attention_ms},
                "stages_ms": timing.stages_ms,
                "threads": timing.threads,
                "versions": timing.versions,
            }
        )
    return rows


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Perplexity over speed, a line per block size: lower and further right is better."""
    alt.Chart(alt.Data(values=rows)).mark_line(point=True).encode(
        x=alt.X("attention_ratio:Q", title="attention, times faster than dense"),
        y=alt.Y("ppl_increase_pct:Q", title="perplexity increase over dense, %"),
        color=alt.Color("block:N", title="queries x keys", sort=None),
        order="mass:Q",
    ).properties(width=260, height=230).facet(alt.Facet("length:O", title="tokens")).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", help="of the model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument(
        "--blocks",
        nargs="+",
        default=[f"{bq}x{bk}" for bq, bk in BLOCKS],
        choices=[f"{bq}x{bk}" for bq, bk in BLOCKS],
        help="queries x keys",
    )
    parser.add_argument("--masses", type=float, nargs="+", default=list(MASSES))
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--source", default="austen", help="source or file that is held out")
    parser.add_argument("--out", type=Path, default=RESULTS / "blocks.json")
    options = parser.parse_args()
    original = saa.load(options.model, device="cpu")
    model = original
    if options.adapter:
        model = saa.load(options.model, adapter=options.adapter, device="cpu")
    (text,) = corpus.join_documents(corpus.documents([options.source]), "heldout").values()
    rows = read_rows(options.out)
    done = {(row["model"], row["text"], row["length"], row["block"]) for row in rows}
    for length in options.lengths:
        for block in (block for block in BLOCKS if "{}x{}".format(*block) in options.blocks):
            name = f"{block[0]} x {block[1]}"
            if (model.spec.title, options.source, length, name) in done:
                continue
            rows += measure(model, original, text, length, block, options)
            write_json(options.out, rows)
            for row in rows[-len(options.masses) :]:
                print(
                    f"{length:5} {row['block']:8} mass {row['mass']:.2f} density "
                    f"{row['density']:.3f} ppl {row['ppl_increase_pct']:+.2f} % attention "
                    f"{row['attention_ratio']:.2f}x",
                    flush=True,
                )
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
