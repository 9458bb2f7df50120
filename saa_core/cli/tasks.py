"""Commands on classification: ``classify`` and ``train-task``."""

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from saa_core.cli.options import column_option, device_option, seed_option
from saa_core.data import labelled, tables
from saa_core.errors import PolicyError, TextError, choice
from saa_core.files import dump_json, replacing
from saa_core.train.config import TokenConfig
from saa_core.types import Guard, Policy

if TYPE_CHECKING:
    from saa_core.run.classify import Prediction
    from saa_core.train.task import TaskQuality

BATCH = 32


def classify(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "file",
        metavar="FILE",
        help="one UTF-8 text, or a table of texts (.csv, .jsonl, .parquet); - is standard input",
    )
    command.add_argument(
        "--task", required=True, metavar="NAME", help="shipped task or folder; required"
    )
    _encoder(command)
    command.add_argument(
        "--tokens",
        type=float,
        metavar="SHARE",
        help="share of the token work to do, over 0 to 1 (default: the task's own)",
    )
    command.add_argument(
        "--margin",
        type=float,
        metavar="SHARE",
        help="ask the dense side where the probabilities of the first two labels are closer than this, "
        "0 to 1 (default: the task's own)",
    )
    command.add_argument(
        "--policy",
        metavar="FILE",
        help="policy file, as saa tune writes it, in place of both (default: none)",
    )
    column_option(command)
    command.add_argument(
        "--cut",
        action="store_true",
        help="cut texts to what the task was made for (default: refuse those too long for the model)",
    )
    command.add_argument(
        "--out",
        metavar="FILE",
        help="write the labels of a table as .csv or .jsonl (default: print them)",
    )
    command.set_defaults(run=_classify)


def _encoder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default="minilm",
        metavar="NAME",
        help="alias, hub id or folder of an encoder (default: %(default)s)",
    )
    device_option(command)


def train_task(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    config = TokenConfig()
    command.add_argument(
        "data",
        metavar="DATA",
        help=f"{', '.join(sorted(labelled.TASKS))}, or a table with the columns text and label",
    )
    command.add_argument(
        "--out", required=True, metavar="FOLDER", help="where to write the task; required"
    )
    command.add_argument(
        "--name", metavar="NAME", help="name of the task (default: the folder's name)"
    )
    _encoder(command)
    command.add_argument(
        "--steps",
        type=int,
        nargs=2,
        default=list(config.steps),
        metavar=("DENSE", "SPARSE"),
        help="batches of the dense stage, which fine-tunes, and of the sparse one, which trains the "
        "gates (default: {} {})".format(*config.steps),
    )
    for name, kind, metavar, what in (
        ("batch", int, "N", "texts per batch"),
        ("longest", int, "TOKENS", "tokens that a text is cut to"),
        ("rate", float, "X", "highest learning rate of the dense stage"),
    ):
        command.add_argument(
            f"--{name}",
            type=kind,
            default=getattr(config, name),
            metavar=metavar,
            help=f"{what} (default: %(default)s)",
        )
    command.add_argument(
        "--teacher",
        metavar="FOLDER",
        help="task whose dense side is taken, not trained (default: none)",
    )
    command.add_argument(
        "--limit",
        type=int,
        default=8000,
        metavar="N",
        help="texts to train on at most (default: %(default)s)",
    )
    seed_option(command)
    command.add_argument(
        "--checkpoint", metavar="FOLDER", help="folder to resume from (default: OUT/checkpoint)"
    )
    command.set_defaults(run=_train_task)


def _classify(options: argparse.Namespace) -> None:
    texts = list(_texts(options.file, options.column))
    table = tables.is_table(Path(options.file))
    own = options.tokens is not None or options.margin is not None
    if options.policy is not None and own:
        raise PolicyError(
            "--policy and --tokens or --margin exclude each other: what a file promises holds for it as it is"
        )
    if options.out and Path(options.out).suffix.lower() not in (".csv", ".jsonl"):
        raise TextError(choice("--out", Path(options.out).suffix, (".csv", ".jsonl")))
    from saa_core.certify.policy_file import load_policy
    from saa_core.cli.bars import Bars
    from saa_core.loading import load
    from saa_core.run.classify import classify

    stored = None if options.policy is None else load_policy(options.policy)
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
    with Bars("text") as bars:
        for prediction in classify(model, texts, policy, batch=BATCH, cut=options.cut):
            found.append(prediction)
            if len(texts) > 1:
                bars("classifying", len(found), len(texts))
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
    again = f"; the reference model was asked for {asked} of {len(found)} texts" if asked else ""
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


def _write(out: Path, texts: list[str], found: "list[Prediction]") -> Path:
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
            stream.writelines(dump_json(row, ensure_ascii=False) + "\n" for row in rows)
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
    from saa_core.cli.bars import bar
    from saa_core.loading import load
    from saa_core.train.task import TaskTraining

    examples = labelled.read(options.data)
    name = options.name or Path(options.out).name
    model = load(options.model, device=options.device)
    training = TaskTraining(
        model, name, examples, config, limit=options.limit, teacher=options.teacher
    )
    with bar(sum(config.steps), "batch") as shown:
        for step in training.steps():
            shown.n = step.step + (config.steps[0] if step.stage == "sparse" else 0)
            shown.set_postfix(stage=step.stage, loss=f"{step.loss:.3f}", work=f"{step.share:.2f}")
    rows = training.finish(options.out, training={"command": options.command})
    for line in quality_lines(rows):
        print(line)
    print(f"task: {options.out}")


def quality_lines(rows: "list[TaskQuality]") -> Iterator[str]:
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
