"""The part of the `saa` command that deals with classification: ``classify`` and ``train-task``."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from saa_core.certify.policy_file import load_policy
from saa_core.data import labelled, tables
from saa_core.errors import PolicyError, TextError, choice
from saa_core.files import replacing
from saa_core.loading import load
from saa_core.run.classify import Prediction, classify
from saa_core.train.task import TaskQuality, TaskTraining
from saa_core.train.tokens import TokenConfig
from saa_core.types import Guard, Policy

BATCH = 32


def register(commands: Any) -> None:
    """Adds the two commands to the parser of ``saa``."""
    command = commands.add_parser("classify", help="label texts with a trained task")
    command.add_argument(
        "file", metavar="FILE", help="UTF-8 text, .csv, .jsonl or .parquet; - is stdin"
    )
    command.add_argument("--model", default="minilm", help="alias, hub id or folder")
    command.add_argument("--task", required=True, help="shipped task or folder")
    command.add_argument("--tokens", type=float, help="share of the token work to do, up to 1")
    command.add_argument(
        "--margin", type=float, help="ask the dense side where two labels are closer together"
    )
    command.add_argument("--policy", metavar="FILE", help="policy file, as saa tune writes it")
    command.add_argument("--column", default="text", help="of a table")
    command.add_argument(
        "--cut", action="store_true", help="cut texts to what the task was made for"
    )
    command.add_argument("--out", help="CSV or JSONL file for the labels of a table")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    command.set_defaults(run=_classify)

    command = commands.add_parser(
        "train-task", help="fine-tune and gate an encoder on labelled texts"
    )
    command.add_argument(
        "data",
        metavar="DATA",
        help=f"{', '.join(sorted(labelled.TASKS))}, or a table (text, label)",
    )
    command.add_argument("--model", default="minilm", help="alias, hub id or folder")
    command.add_argument("--out", required=True, help="folder for the task")
    command.add_argument("--name", help="of the task; the folder's name by default")
    command.add_argument("--steps", type=int, nargs=2, default=list(TokenConfig.steps))
    command.add_argument("--batch", type=int, default=TokenConfig.batch)
    command.add_argument("--longest", type=int, default=TokenConfig.longest, help="tokens per text")
    command.add_argument("--teacher", help="task folder whose dense side is taken, not trained")
    command.add_argument("--limit", type=int, default=8000, help="texts to train on")
    command.add_argument("--rate", type=float, default=TokenConfig.rate)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    command.add_argument("--checkpoint", help="folder to resume from (default: OUT/checkpoint)")
    command.set_defaults(run=_train_task)


def _classify(options: argparse.Namespace) -> None:
    texts = list(_texts(options.file, options.column))
    table = tables.is_table(Path(options.file))
    stored = None if options.policy is None else load_policy(options.policy)
    own = options.tokens is not None or options.margin is not None
    if stored is not None and own:
        raise PolicyError(
            "--policy and --tokens or --margin exclude each other: what a file promises holds for it as it is"
        )
    if options.out and Path(options.out).suffix.lower() not in (".csv", ".jsonl"):
        raise TextError(choice("--out", Path(options.out).suffix, (".csv", ".jsonl")))
    side: Literal["auto", "sparse", "dense"] = "auto"
    if stored is not None:
        side = "dense" if stored.policy is None else "sparse"
    model = load(options.model, task=options.task, side=side, device=options.device)
    policy = model.spec.policy
    if options.tokens is not None:
        policy = replace(policy, tokens=options.tokens)
    if options.margin is not None:
        guard = Guard(missed_mass=None, margin=options.margin) if options.margin else None
        policy = replace(policy, guard=guard)
    if stored is not None:
        stored.check(model)
        policy = stored.policy or Policy(mass=1.0)
        print(f"policy file: {stored.promise or stored.policy or 'dense'}", file=sys.stderr)
    found = []
    with tqdm(total=len(texts), unit="text", disable=len(texts) < 2) as bar:
        for prediction in classify(model, texts, policy, batch=BATCH, cut=options.cut):
            found.append(prediction)
            bar.update()
    if options.out:
        print(f"labels: {_write(Path(options.out), texts, found)}")
    elif table:
        for prediction in found:
            print(f"{prediction.label}\t{max(prediction.probabilities.values()):.4f}")
    else:
        for name, probability in sorted(found[0].probabilities.items(), key=lambda x: -x[1]):
            print(f"{name:28} {100 * probability:6.2f} %")
    work = sum(p.flops_share * p.tokens for p in found) / sum(p.tokens for p in found)
    asked = sum(p.dense for p in found)
    again = f"; the dense side was asked for {asked} of {len(found)} texts" if asked else ""
    print(f"work done: {100 * work:.1f} % of dense (operations, per token){again}", file=sys.stderr)


def _texts(file: str, column: str) -> Iterator[str]:
    """The one text of a file or of standard input, or those of a table's column."""
    if file == "-":
        yield sys.stdin.read()
        return
    path = Path(file)
    try:
        if tables.is_table(path):
            yield from tables.read_column(path, column)
        else:
            yield path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"FILE={file!r} cannot be read: {error}") from error


def _write(out: Path, texts: list[str], found: list[Prediction]) -> Path:
    """Text, label, probability and work per line, as CSV or JSONL."""
    rows = [
        {
            "text": text,
            "label": prediction.label,
            "probability": round(max(prediction.probabilities.values()), 6),
            "flops_share": round(prediction.flops_share, 4),
        }
        for text, prediction in zip(texts, found, strict=True)
    ]
    with replacing(out) as part, part.open("w", encoding="utf-8", newline="") as stream:
        if out.suffix.lower() == ".jsonl":
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return out


def _train_task(options: argparse.Namespace) -> None:
    config = TokenConfig(
        steps=tuple(options.steps),
        batch=options.batch,
        longest=options.longest,
        rate=options.rate,
        seed=options.seed,
        checkpoint=options.checkpoint or str(Path(options.out) / "checkpoint"),
    )
    examples = labelled.read(options.data)
    name = options.name or Path(options.out).name
    model = load(options.model, device=options.device)
    training = TaskTraining(
        model, name, examples, config, limit=options.limit, teacher=options.teacher
    )
    with tqdm(total=sum(config.steps), unit="batch") as bar:
        for step in training.steps():
            bar.n = step.step + (config.steps[0] if step.stage == "sparse" else 0)
            bar.set_postfix(stage=step.stage, loss=f"{step.loss:.3f}", work=f"{step.share:.2f}")
    rows = training.finish(options.out, training={"command": options.command})
    for line in quality_lines(rows):
        print(line)
    print(f"task: {options.out}")


def quality_lines(rows: list[TaskQuality]) -> Iterator[str]:
    """A table of what each share of the work costs."""
    yield (
        "tokens asked   tokens done   dense asked   operations   accuracy (95 % interval)   "
        "labels changed"
    )
    for row in rows:
        yield (
            f"{100 * row.wanted:10.0f} % {100 * row.token_share:11.1f} % {100 * row.asked:11.1f} % "
            f"{100 * row.flops_share:10.1f} % "
            f"{100 * row.accuracy:10.1f} % ({100 * row.lo:.1f} to {100 * row.hi:.1f}) "
            f"{100 * row.changed:13.1f} %"
        )
