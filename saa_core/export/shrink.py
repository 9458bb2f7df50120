"""From an exported folder in float32 to one in int8, and what that costs. Needs no PyTorch.

How large activations get is seen on training texts of the task, or on the examples that ship where there are none;
what it costs is counted on its test texts.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from saa_core.bounds import binomial_interval
from saa_core.data import fetch
from saa_core.data.labelled import LabelledText
from saa_core.export.engine import Engine, open_engine, padded
from saa_core.export.manifest import (
    FILES,
    MODEL,
    REFERENCE,
    TOKENIZER,
    read_manifest,
    write_manifest,
)
from saa_core.export.quantise import quantise
from saa_core.export.session import Array

WAYS = ("dynamic", "static")
"""Scales of activations: found in each run, or fixed by calibration texts."""
CALIBRATION, TEST = 64, 1000
"""Texts at most that are looked at for either."""
AT_ONCE, DELTA = 8, 0.05


def shrink(
    source: Path, target: Path, way: str = "dynamic", examples: Sequence[LabelledText] = ()
) -> None:
    """Writes the folder ``source`` with its model in int8 into the empty folder ``target``.

    Args:
        way: one of WAYS.
        examples: labelled texts of the task; those of its split "train" calibrate, "test" ones say what
            int8 costs. Without any, the examples that ship calibrate, and the folder says no cost.

    Raises:
        ModelError: ``source`` is no exported folder.
    """
    engine, about = open_engine(source), read_manifest(source)
    training = [each.text for each in examples if each.split == "train"][:CALIBRATION]
    quantise(source / MODEL, target / MODEL, feeds(engine, training), static=way == "static")
    for name in (REFERENCE, TOKENIZER):
        shutil.copyfile(source / name, target / name)
    small = replace(
        about,
        precision="int8",
        files={name: digest(target / name) for name in FILES},
        int8={"scales": way, "calibration_texts": len(training)},
    )
    write_manifest(target, small)
    test = [each for each in examples if each.split == "test"][:TEST]
    if test:
        found = cost(engine, open_engine(target), test)
        write_manifest(target, replace(small, int8={**small.int8, **found}))


def feeds(engine: Engine, texts: Sequence[str] = ()) -> list[dict[str, Array]]:
    """Inputs of the model for texts, or for the examples that ship."""
    known = list(texts) or [
        part
        for file in sorted((fetch.assets() / "examples").glob("*.txt"))
        for part in file.read_text("utf-8").split("\n\n")
        if part.strip()
    ]
    ids = sorted(engine.encode(known[:CALIBRATION], cut=True), key=len)
    share, margin = (np.array(each, np.float32) for each in (engine.about.share, 0.0))
    return [
        {**padded(ids[at : at + AT_ONCE]), "share": share, "margin": margin}
        for at in range(0, len(ids), AT_ONCE)
    ]


def cost(engine: Engine, small: Engine, test: Sequence[LabelledText]) -> dict[str, Any]:
    """What int8 changes on test texts, at the defaults: labels with a 95 % interval, and accuracy."""
    texts = [example.text for example in test]
    truth = [example.label for example in test]
    before, after = (
        [found.label for found in each.classify(texts, cut=True)] for each in (engine, small)
    )
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    right, right_before = (
        sum(one == other for one, other in zip(given, truth, strict=True))
        for given in (after, before)
    )
    return {
        "test_texts": len(texts),
        "same_label": 1 - changed / len(texts),
        "same_label_interval": binomial_interval(len(texts) - changed, len(texts), DELTA),
        "accuracy": right / len(texts),
        "accuracy_float32": right_before / len(texts),
    }


def said_of(int8: Mapping[str, Any]) -> str:
    """What :func:`cost` found, as a line; empty where nothing was counted."""
    if "same_label" not in int8:
        return ""
    low, high = int8["same_label_interval"]
    return (
        f"int8 on {int8['test_texts']:,} test texts: {100 * int8['same_label']:.1f} % of the labels as in "
        f"float32 (95 % interval {100 * low:.1f} to {100 * high:.1f}), accuracy "
        f"{100 * int8['accuracy']:.1f} % after {100 * int8['accuracy_float32']:.1f} %\n"
    )


def digest(file: Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
