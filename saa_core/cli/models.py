"""What commands share that run a model: loading it with its gates and a policy, reading texts and saying what was
read and cut, writing gates."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saa_core.cli.options import policy_of, refuse_beside_policy_file
from saa_core.data import encodings, tables
from saa_core.data.titles import FIRST, parts_of
from saa_core.errors import ModelError, TextError
from saa_core.types import Policy

if TYPE_CHECKING:
    from saa_core.model import Model


def load_model(options: argparse.Namespace, *, training: bool = False) -> "Model":
    """The model of :func:`saa_core.cli.options.model_options`, and of ``--task`` where the command has it.

    Args:
        training: the gates need not be trained; else a warning is printed where they are not.
    """
    import torch

    from saa_core.cli.bars import Bars
    from saa_core.loading import load

    name_model(options)
    task = getattr(options, "task", None)
    with Bars() as bars:
        model = load(
            options.model,
            device=options.device,
            dtype=getattr(torch, options.dtype) if options.dtype else None,
            gates=options.gates,
            adapter=options.adapter,
            task=task,
            side="auto" if task is None else "sparse",
            progress=bars,
        )
    if not model.spec.trained and not training:
        warn_untrained(options.model)
    return model


def name_model(options: argparse.Namespace) -> None:
    """Fills in which model is meant where none is named, and takes its title apart into the options for
    adapter and task.

    Raises:
        ModelError: what the title names does not ship, or an option names another.
    """
    task, adapter = getattr(options, "task", None), options.adapter
    if options.model is None:
        own = task is None and adapter is None and options.gates is None
        options.model = FIRST if own else "smollm2" if task is None else "minilm"
        if own and getattr(options, "dense", False):
            options.model = parts_of(FIRST).model  # the original
    found = parts_of(options.model)
    for what, given, said in (("adapter", adapter, found.adapter), ("task", task, found.task)):
        if said is not None and given is not None:
            raise ModelError(
                f"--model={options.model!r} names its {what}; leave --{what} {given!r} out"
            )
    options.model = found.model
    options.adapter, options.task = adapter or found.adapter, task or found.task


def warn_untrained(name: str) -> None:
    """Fresh gates decide at random: said where nobody can miss it."""
    print(
        f"WARNING: the gates of {name!r} are UNTRAINED; what they keep means nothing. Name trained ones "
        "with --gates, or train some with: saa train",
        file=sys.stderr,
    )


def load_model_and_policy(options: argparse.Namespace) -> "tuple[Model, Policy | None]":
    """The model, and the policy of the options or of ``--policy``; None is dense.

    Bad values are refused before anything is loaded.
    """
    if options.policy is None:
        policy_of(options, Policy())
        model = load_model(options)
        return model, policy_of(options, model.spec.policy)
    refuse_beside_policy_file(options)
    from saa_core.certify.policy_file import load_policy

    stored = load_policy(options.policy)
    if options.model is None and options.adapter is None and options.gates is None:
        options.model = stored.model
    name_model(options)
    if stored.policy is None:
        options.adapter = None
    model = load_model(options)
    stored.check(model)
    print(f"policy file: {stored.promise or stored.policy or 'dense'}")
    return model, stored.policy


def write_gates(model: "Model", out: str) -> None:
    """Writes gates to which something was added, under the name that they had, and says where."""
    from saa_core.attach import save_gates

    name = model.spec.gate if model.spec.trained else None
    print(f"gates: {save_gates(model, out, name=name, training=model.spec.training)}")


def read_one(file: str) -> str:
    """The text of a file, or of standard input, which "-" stands for, in whatever encoding it is.

    Raises:
        TextError: it cannot be read, or is no text.
    """
    if file != "-":
        try:
            return encodings.read_text(file)
        except TextError as error:
            raise TextError(f"FILE={file!r}: {error}") from error
    if sys.stdin is None:
        raise TextError("FILE='-': there is no standard input")
    raw = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if raw is None else encodings.decode(raw.read(), "standard input")


def say(sentence: str) -> None:
    """A remark beside the results."""
    print(f"saa: {sentence}", file=sys.stderr)


def say_reading(file: str | Path, reading: tables.Reading, outcome: str = tables.LEFT_OUT) -> None:
    """What was recognized in a file, and which rows of it are not used."""
    for sentence in reading.sentences(file, outcome):
        say(sentence)


def place(file: str | Path, reading: tables.Reading, number: int | None = None) -> str:
    """A text by its file and row; by default the one that was read last."""
    return f"{Path(file).name}, {reading.what} {reading.rows if number is None else number:,}"


def check_lengths(
    model: "Model", texts: list[str], places: list[str], limit: int, *, cut: bool
) -> list[int]:
    """Says how many texts are longer than a limit; returns their indices.

    Raises:
        TextError: one is, and ``cut`` is False.
    """
    from saa_core.run.corpora import longer_than

    found = longer_than(model, texts, limit)
    say_lengths(found, places, limit, cut=cut)
    return list(found)


def say_lengths(found: Mapping[int, int], places: Sequence[str], limit: int, *, cut: bool) -> None:
    """Says how many texts are longer than a limit.

    Args:
        found: index and tokens of those that are.
        places: where each text stands.

    Raises:
        TextError: one is, and ``cut`` is False.
    """
    if not found:
        return
    (index, length), *_ = found.items()
    if not cut:
        raise TextError(
            f"{places[index]} has {length:,} tokens, and {limit:,} is the limit",
            limit=limit,
            length=length,
        )
    say(tables.TooLong(limit, len(places), len(found)).sentence(places[index]))
