"""Gates trained without one kind of text and judged on it, beside gates that were trained on every kind.

    python -m benchmarks.quality.leave_out train --steps 400     # gates/ALL and gates/KIND under --folder
    python -m benchmarks.quality.leave_out measure               # writes results/leave_out.json

All sets learn in one pass over the same windows: the frozen model runs once, its attention is the target
of all, and each set leaves out the windows of its own kind. Resumable, both parts.
"""

import argparse
import copy
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import saa_core as saa
from benchmarks.quality.generalise import (
    at_one_percent,
    held_out,
    increase,
    measure,
    policy_at,
    windows_at,
)
from benchmarks.resume import read_rows
from saa_core.attention import Call
from saa_core.data import corpus
from saa_core.files import write_json
from saa_core.gates.pair import PairGate
from saa_core.pairs import Allowed
from saa_core.run.execute import forward
from saa_core.train.checkpoint import Checkpoint
from saa_core.train.config import TrainConfig
from saa_core.train.distil import block_mass, choose_rows, gate_parameters, learn, schedule

RESULTS = Path(__file__).parent.parent / "results"
EVERY = "every kind"
KINDS = ("mail", "dialogue", "law", "speech")
"""Kinds that are left out in turn; the shipped gates, which are gone on from, have seen none of them."""
BLOCK = (32, 16)


class Lesson:
    """Targets of one window, once; a gradient on every set of gates that learns from this kind."""

    def __init__(self, sets: Sequence[Sequence[PairGate]], rows: int, seed: str) -> None:
        self.sets = sets
        self.rows = rows
        self.draw = random.Random(seed)
        self.losses = [0.0 for _ in sets]

    def layer(self, layer: int, q: Tensor, k: Tensor, allowed: Allowed, scale: float) -> None:
        q_BHQD, k_BGKD = q.detach().float(), k.detach().float()
        chosen = choose_rows(allowed.queries, BLOCK, self.rows, self.draw)
        target = block_mass(q_BHQD, k_BGKD, allowed, BLOCK, chosen, scale)
        for index, gates in enumerate(self.sets):
            found, _ = learn(gates[layer], q_BHQD, k_BGKD, allowed, BLOCK, chosen, target)
            self.losses[index] += found / len(gates)


def train(options: argparse.Namespace) -> None:
    """One set of gates per left-out kind and one of every kind, written as gate folders."""
    model = saa.load(options.model, gates=options.gates, device="cpu", dtype=options.dtype)
    names = [EVERY, *options.kinds]
    sets = {name: copy.deepcopy(model.gates) for name in names}
    parameters = {
        f"{name}/{key}": value.requires_grad_(True)
        for name, gates in sets.items()
        for key, value in gate_parameters(gates).items()
    }
    config = TrainConfig(
        steps=options.steps,
        lengths=tuple(options.lengths),
        rate=options.rate,
        rows=options.rows,
        seed=options.seed,
        checkpoint=str(options.folder / "checkpoint"),
        save_every=20,
    )
    optimizer = torch.optim.Adam(parameters.values(), lr=config.rate)
    saved = Checkpoint(config, parameters, optimizer)
    start = saved.restore()
    texts = corpus.join_documents(corpus.documents(corpus.default_sources()), "train", by="kind")
    unknown = set(options.kinds) - set(texts)
    if unknown:
        raise SystemExit(f"--kinds: {', '.join(sorted(unknown))} are not among {', '.join(texts)}")
    streams = {kind: model.tokenize(text) for kind, text in texts.items()}
    drawn = corpus.draw_windows(streams, config.lengths, config.seed, skip=start)
    began = time.perf_counter()
    for step, (kind, _, ids) in zip(range(start, config.steps), drawn, strict=False):
        learning = [name for name in names if name != kind]
        for group in optimizer.param_groups:
            group["lr"] = config.rate * schedule(step / config.steps)
        optimizer.zero_grad(set_to_none=True)  # a set without a gradient stays as it is
        lesson = Lesson([sets[name] for name in learning], config.rows, f"{config.seed}/{step}")
        with torch.no_grad():
            forward(model, torch.tensor([model.frame(ids)]), Call(observe=lesson.layer))
        optimizer.step()
        if saved.due(step + 1):
            saved.save(step + 1)
        print(
            f"{step + 1:5} {kind:10} {len(ids):5} tokens, loss {lesson.losses[0]:.3f} nats, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    for name, gates in sets.items():
        for own, learned in zip(model.gates, gates, strict=True):
            own.load_state_dict(learned.state_dict())
            own.mass_calibrators, own.ood_detector = {}, None
        about = {"steps": config.steps, "left out": "" if name == EVERY else name}
        saa.save_gates(model, options.folder / name, name=f"without-{name}", training=about)


def evaluate(options: argparse.Namespace) -> None:
    """Each left-out kind under both sets, the same windows."""
    original = saa.load(options.model, device="cpu", dtype=options.dtype)
    rows = read_rows(options.out)
    done = {(row["kind"], row["gates"], row["length"], row["mass"]) for row in rows}
    started = time.monotonic()
    for kind in options.kinds:
        text = held_out(kind)
        for name in (EVERY, kind):
            model = saa.load(
                options.model, gates=options.folder / name, device="cpu", dtype=options.dtype
            )
            for length in options.lengths:
                masses = [m for m in options.masses if (kind, name, length, m) not in done]
                if not masses:
                    continue
                if options.minutes and time.monotonic() - started > 60 * options.minutes:
                    print("time is up; run again to go on", file=sys.stderr)
                    return
                policies = [policy_at(mass, length, BLOCK) for mass in masses]
                count = options.windows or windows_at(length)
                for row in measure(model, original, text, length, policies, count):
                    rows.append({"kind": kind, "gates": name} | row)
                    print(
                        f"{kind:10} {'with' if name == EVERY else 'without'} {length:5} "
                        f"mass {row['mass']:.2f} density {row['density']:.3f} "
                        f"ppl {increase(row | {'kind': kind})[0]:+.2f} %",
                        flush=True,
                    )
                write_json(options.out, rows)
    for line in table(rows):
        print(line)


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per kind and length the density at 1 %, trained with that kind and without it."""
    found = []
    for kind, length in sorted({(row["kind"], row["length"]) for row in rows}):
        at = [row for row in rows if (row["kind"], row["length"]) == (kind, length)]
        found.append(
            {
                "kind": kind,
                "length": length,
                "with": at_one_percent([row for row in at if row["gates"] == EVERY]),
                "without": at_one_percent([row for row in at if row["gates"] != EVERY]),
            }
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--gates", help="gate folder to begin with; the shipped one by default")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="kinds to leave out")
    parser.add_argument("--folder", type=Path, default=Path("runs/leave_out"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 1024, 2048])
    parser.add_argument("--masses", type=float, nargs="+", default=[0.9, 0.93, 0.95, 0.97])
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, help="fewer windows, to try")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--minutes", type=float, help="stop measuring after this long")
    parser.add_argument("--out", type=Path, default=RESULTS / "leave_out.json")
    options = parser.parse_args(arguments)
    (train if options.what == "train" else evaluate)(options)


if __name__ == "__main__":
    main()
