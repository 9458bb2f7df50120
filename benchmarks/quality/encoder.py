"""What sparsity does to an encoder's embeddings, on texts that no gate was trained on.

    python -m benchmarks.quality.encoder            # writes benchmarks/results/encoder.json and .svg

Cosine of the sparse with the dense embedding, retained attention mass and density, by length; both
pair by pair and in blocks. What stands in the file is not measured again. multilingual-e5-small, by language:

    python -m benchmarks.quality.encoder --model e5 --texts manual-ja gimp-ja manual wikipedia \
        --lengths 64 128 256 508 --masses 0.9 0.95 --windows 6 --out benchmarks/results/encoder_e5.json
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import altair as alt

import saa_core as saa
from saa_core.data import corpus
from saa_core.files import write_json
from saa_core.train.evaluate import evaluate_encoder

RESULTS = Path(__file__).parent.parent / "results"
MASSES = (0.8, 0.9, 0.95, 0.98)
GRANULARITIES = ("pair", "block")


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Cosine distance over density, a line per length, a panel per granularity and text."""
    titled = [
        row | {"panel": f"{row['text']}, {row['granularity']}s", "distance": 1 - row["cosine"]}
        for row in rows
    ]
    base = alt.Chart(alt.Data(values=titled)).encode(
        x=alt.X("density:Q", title="density: kept / allowed pairs", axis=alt.Axis(format="%")),
        color=alt.Color("length:O", title="tokens", scale=alt.Scale(scheme="viridis")),
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("distance:Q", title="1 - cosine with the dense embedding"), order="density:Q"
    )
    line.properties(width=240, height=220).facet("panel:N", columns=2).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--gates", help="gate folder; the shipped one by default")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--masses", type=float, nargs="+", default=list(MASSES))
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--texts", nargs="+", default=["austen", "wikipedia"])
    parser.add_argument("--out", type=Path, default=RESULTS / "encoder.json")
    options = parser.parse_args()
    model = saa.load(options.model, gates=options.gates, device="cpu")
    texts = corpus.join_documents(corpus.documents(options.texts), "heldout")
    rows: list[dict[str, Any]] = (
        json.loads(options.out.read_text()) if options.out.is_file() else []
    )
    known = {
        (row["gate"], row["text"], row["length"], row["granularity"], row["mass"]) for row in rows
    }
    for length in options.lengths:
        for name, text in texts.items():
            for granularity in GRANULARITIES:
                asked = (model.spec.gate, name, length, granularity)
                policies = [
                    saa.Policy(mass=mass, granularity=granularity, block=(16, 16))
                    for mass in options.masses
                    if (*asked, mass) not in known
                ]
                if not policies:
                    continue
                found = evaluate_encoder(
                    model, text, name, length, policies, windows=options.windows
                )
                about = {"gate": model.spec.gate, "granularity": granularity}
                rows += [about | asdict(row) for row in found]
                for row in found:
                    print(
                        f"{name:10} {length:4} {granularity:5} mass {row.mass:.2f} density "
                        f"{row.density:.3f} retained {row.retained_mass:.4f} cosine {row.cosine:.4f} "
                        f"({row.lo:.4f} to {row.hi:.4f})",
                        flush=True,
                    )
                write_json(options.out, rows)
    plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
