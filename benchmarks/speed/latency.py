"""Dense against SAA on the clock, by length: attention alone and the whole prefill.

    python -m benchmarks.speed.latency            # writes benchmarks/results/latency.json and .svg
    python -m benchmarks.speed.latency --device cuda --block 128 64 --out benchmarks/results/gpu.json

Rounds are interleaved in one process; gate, rule and mask building are inside the attention.
"""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

import altair as alt

import saa_core as saa
from benchmarks.pictures import ratio_chart
from saa_core.cli.run import timing_table
from saa_core.files import write_json
from saa_core.run.timing import crossover
from saa_core.types import FALLBACKS

RESULTS = Path(__file__).parent.parent / "results"


def plot(timings: list[saa.Timing], file: Path) -> None:
    """Times faster than dense by length, with quartiles; and the stages of the attention."""
    points, stages = [], []
    for dense, sparse in zip(timings[::2], timings[1::2], strict=True):
        for what, field in (("attention", "attention_ms"), ("whole prefill", "samples_ms")):
            low, middle, high = sparse.ratio(dense, field)
            points.append(
                {"tokens": dense.length, "what": what, "low": low, "x": middle, "high": high}
            )
        for side, timing in (("dense", dense), ("SAA", sparse)):
            stages += [
                {"tokens": dense.length, "side": side, "stage": stage, "ms": value}
                for stage, value in timing.stages_ms.items()
            ]
    ratio = ratio_chart(points, "dense", 300)
    bars = (
        alt.Chart(alt.Data(values=stages))
        .mark_bar()
        .encode(
            x=alt.X("side:N", title=None, sort=["dense", "SAA"], axis=alt.Axis(labelAngle=0)),
            y=alt.Y("ms:Q", title="attention of all layers, ms"),
            color=alt.Color("stage:N", title="stage", scale=alt.Scale(scheme="tableau10")),
            column=alt.Column("tokens:O", title="tokens"),
        )
        .properties(width=60, height=260)
    )
    alt.hconcat(ratio, bars).resolve_scale(color="independent").save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--adapter", help="a shipped adapter, or a folder")
    parser.add_argument(
        "--block", type=int, nargs=2, metavar=("QUERIES", "KEYS"), help="tokens per decided block"
    )
    parser.add_argument("--mass", type=float, help="the shipped policy by default")
    parser.add_argument(
        "--fallback",
        choices=FALLBACKS,
        default="never",
        help="auto: as this machine was measured; dense: short texts are computed densely",
    )
    parser.add_argument(
        "--beyond",
        action="store_true",
        help="allow lengths over those the model was trained for: times mean something, answers do not",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "latency.json")
    options = parser.parse_args()
    model = saa.load(options.model, device=options.device, adapter=options.adapter)
    if options.beyond:
        model.hf.config.max_position_embeddings = max(model.max_length, *options.lengths)
    policy = saa.Policy(mass=options.mass) if options.mass else model.spec.policy
    if options.block:
        policy = replace(policy, block=tuple(options.block))
    policy = replace(policy, fallback=options.fallback)

    def report(what: str, done: int, total: int) -> None:
        print(f"{done}/{total} {what}", file=sys.stderr, flush=True)

    timings = saa.measure(
        model, options.lengths, (None, policy), repeats=options.repeats, progress=report
    )
    for line in timing_table(timings):
        print(line)
    print(f"whole prefill faster from: {crossover(timings)} tokens")
    write_json(options.out, [asdict(timing) for timing in timings])
    plot(timings, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
