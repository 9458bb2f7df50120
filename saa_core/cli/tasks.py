"""Commands on classification: ``classify`` and ``train-task``."""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from saa_core.cli.backend.ask import backend_option, classify_there
from saa_core.cli.models import check_lengths, read_one, say_lengths, say_reading
from saa_core.cli.options import (
    column_option,
    cut_option,
    device_option,
    label_option,
    seed_option,
)
from saa_core.data import labelled, tables
from saa_core.errors import PolicyError, TextError, check_text, choice
from saa_core.files import dump_json, replacing
from saa_core.train.config import TokenConfig
from saa_core.types import Guard, Policy, Prediction

BATCH = 32
ENGINES = ("pytorch", "onnxruntime")


def classify(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "file",
        metavar="FILE",
        help=f"one text, or a table of texts ({tables.ENDINGS}); - is standard input",
    )
    command.add_argument(
        "--task",
        metavar="NAME",
        help="shipped task of the model (sentences and others of minilm; help-ja of e5) or folder; "
        "needed with --engine pytorch (default: none)",
    )
    command.add_argument(
        "--engine",
        choices=ENGINES,
        default="pytorch",
        help="what runs the model; onnxruntime takes as --model a folder that saa export wrote, and needs no "
        "PyTorch (default: %(default)s)",
    )
    _encoder(command)
    backend_option(command)
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
    cut_option(command, "the model takes", "what the task was made for")
    command.add_argument(
        "--out",
        metavar="FILE",
        help="write the labels of a table, row by row, as .csv or .jsonl (default: print them)",
    )
    command.set_defaults(run=_classify)


def _encoder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default="minilm",
        metavar="NAME",
        help="alias, hub id or folder of an encoder; e5 reads Japanese (default: %(default)s)",
    )
    device_option(command)


def train_task(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    config = TokenConfig()
    command.add_argument(
        "data",
        metavar="DATA",
        help=f"{', '.join(sorted(labelled.TASKS))}, or a table ({tables.ENDINGS}) with a "
        "column of texts and one of labels",
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
        ("rank", int, "N", "rank of the two adapters that are kept"),
        ("rate", float, "X", "highest learning rate of the dense stage"),
    ):
        command.add_argument(
            f"--{name}",
            type=kind,
            default=getattr(config, name),
            metavar=metavar,
            help=f"{what} (default: %(default)s)",
        )
    column_option(command)
    label_option(command)
    cut_option(command, "--longest")
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
    command.add_argument(
        "--held-out",
        type=int,
        nargs=2,
        default=[2000, 2000],
        metavar=("VALIDATION", "TEST"),
        help="texts to choose the default on and to measure on, at most (default: 2000 2000)",
    )
    seed_option(command)
    command.add_argument(
        "--checkpoint", metavar="FOLDER", help="folder to resume from (default: OUT/checkpoint)"
    )
    command.set_defaults(run=_train_task)


def _classify(options: argparse.Namespace) -> None:
    table = options.file != "-" and tables.is_table(Path(options.file))
    rows = _rows(options.file, options.column) if table else [read_one(options.file)]
    texts = [text for text in rows if text is not None]
    unit = "row" if table else "text"
    places = [f"{unit} {number:,}" for number, text in enumerate(rows, 1) if text is not None]
    check_texts(texts, places)
    own = options.tokens is not None or options.margin is not None
    if options.policy is not None and own:
        raise PolicyError(
            "--policy and --tokens or --margin exclude each other: what a file promises holds for it as it is"
        )
    if options.out and Path(options.out).suffix.lower() not in (".csv", ".jsonl"):
        raise TextError(choice("--out", Path(options.out).suffix, (".csv", ".jsonl")))
    if options.backend is not None:
        found = classify_there(options, texts)
    elif options.engine == "onnxruntime":
        found = _by_engine(options, texts, places)
    else:
        found = _by_pytorch(options, texts, places)
    if options.out:
        print(f"labels: {_write(Path(options.out), rows, found)}")
    elif table:
        for _, answer in _by_row(rows, found):
            shown = "" if answer is None else f"{max(answer.probabilities.values()):.4f}"
            print(f"{'' if answer is None else answer.label}\t{shown}")
    else:
        for name, probability in sorted(found[0].probabilities.items(), key=lambda x: -x[1]):
            print(f"{name:28} {100 * probability:6.2f} %")
    work = sum(p.flops_share * p.tokens for p in found) / sum(p.tokens for p in found)
    asked = sum(p.dense for p in found)
    again = f"; the reference model was asked for {asked} of {len(found)} texts" if asked else ""
    print(f"work done: {100 * work:.1f} % of dense (operations, per token){again}", file=sys.stderr)


def _by_engine(
    options: argparse.Namespace, texts: list[str], places: list[str]
) -> list[Prediction]:
    """Labels by an exported folder; nothing here needs PyTorch."""
    refused = {"--task": options.task is not None, "--policy": options.policy is not None}
    refused["--device"] = options.device not in ("auto", "cpu")
    for name, given in refused.items():
        if given:
            raise PolicyError(
                f"{name} and --engine onnxruntime exclude each other: the folder that --model names holds "
                "one task, which runs on the CPU"
            )
    from saa_core.export.engine import open_engine

    engine = open_engine(options.model)
    limit = engine.about.longest if options.cut else engine.about.max_length
    too_long = {i: n for i, n in enumerate(engine.lengths(texts)) if n > limit}
    say_lengths(too_long, places, limit, cut=options.cut)
    return engine.classify(texts, options.tokens, options.margin, batch=BATCH, cut=options.cut)


def _by_pytorch(
    options: argparse.Namespace, texts: list[str], places: list[str]
) -> list[Prediction]:
    if options.task is None:
        raise PolicyError("--task is missing; name a shipped task or a folder")
    from saa_core.certify.policy_file import load_policy
    from saa_core.cli.bars import Bars
    from saa_core.loading import load
    from saa_core.run.classify import classify, task_of

    stored = None if options.policy is None else load_policy(options.policy)
    side: Literal["auto", "sparse", "dense"] = "auto"
    if stored is not None:
        side = "dense" if stored.policy is None else "sparse"
    with Bars() as bars:
        model = load(
            options.model, device=options.device, task=options.task, side=side, progress=bars
        )
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
    limit = task_of(model).longest if options.cut else model.max_length
    check_lengths(model, texts, places, limit, cut=options.cut)
    found = list[Prediction]()
    with Bars("text") as bars:
        for prediction in classify(model, texts, policy, batch=BATCH, cut=options.cut):
            found.append(prediction)
            if len(texts) > 1:
                bars("classifying", len(found), len(texts))
    return found


def _rows(file: str, column: str) -> list[str | None]:
    """The texts of a table's column; None for a row without one, which gets no label.

    Raises:
        TextError: see :func:`saa_core.data.tables.read_column`.
    """
    reading = tables.Reading()
    rows = list[str | None]()
    for text in tables.read_column(file, column, reading):
        rows += [None] * (reading.rows - 1 - len(rows))
        rows.append(text)
    rows += [None] * (reading.rows - len(rows))
    say_reading(file, reading, "no label either")
    return rows


def check_texts(texts: Sequence[str], places: Sequence[str]) -> None:
    """That each text can be encoded.

    Raises:
        TextError: one holds half of a character or is empty; it says which.
    """
    for text, where in zip(texts, places, strict=True):
        check_text(text, where)


def _by_row(
    rows: Sequence[str | None], found: list[Prediction]
) -> Iterator[tuple[str | None, Prediction | None]]:
    """Each row with its answer; None where it has no text."""
    answers = iter(found)
    for text in rows:
        yield text, None if text is None else next(answers)


def _write(out: Path, texts: Sequence[str | None], found: list[Prediction]) -> Path:
    """Text, label, probability and work per row, as CSV or JSONL; of a row without a text they are empty."""
    rows = [
        {
            "text": text,
            "label": answer and answer.label,
            "probability": answer and round(max(answer.probabilities.values()), 6),
            "flops_share": answer and round(answer.flops_share, 4),
        }
        for text, answer in _by_row(texts, found)
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
        rank=options.rank,
        rate=options.rate,
        seed=options.seed,
        checkpoint=options.checkpoint or str(Path(options.out) / "checkpoint"),
    )
    from saa_core.cli.bars import Bars, bar
    from saa_core.loading import load
    from saa_core.train.task import TaskTraining, quality_lines

    examples = read_examples(options)
    name = options.name or Path(options.out).name
    with Bars() as bars:
        model = load(options.model, device=options.device, progress=bars)
    texts = [example.text for example in examples]
    where = [f"row {example.row:,}" if example.row else example.text[:30] for example in examples]
    check_lengths(model, texts, where, config.longest, cut=options.cut)
    training = TaskTraining(
        *(model, name, examples, config),
        limit=options.limit,
        held_out=tuple(options.held_out),
        teacher=options.teacher,
    )
    with bar(sum(config.steps), "batch") as shown:
        for step in training.steps():
            shown.n = step.step + (config.steps[0] if step.stage == "sparse" else 0)
            shown.set_postfix(stage=step.stage, loss=f"{step.loss:.3f}", work=f"{step.share:.2f}")
    rows = training.finish(options.out, training={"command": options.command})
    for line in quality_lines(rows):
        print(line)
    print(f"task: {options.out}")


def read_examples(options: argparse.Namespace) -> list[labelled.LabelledText]:
    """The labelled texts of ``train-task``; says what was recognized, and what was left out.

    Raises:
        TextError, FetchError: see :func:`saa_core.data.labelled.read`.
    """
    reading = tables.Reading()
    examples = labelled.read(options.data, options.column, options.label, reading)
    say_reading(options.data, reading)
    return examples
