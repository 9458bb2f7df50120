"""What commands of ``saa`` share that load a model with its gates: options, loading, writing the gates again."""

import argparse
import sys

import torch

from saa_core.attach import save_gates
from saa_core.cli.bars import Bars
from saa_core.loading import load
from saa_core.model import Model


def model_options(command: argparse.ArgumentParser) -> None:
    """Which model, with which gates, and where."""
    command.add_argument("--model", default="smollm2", help="alias, hub id or folder")
    command.add_argument("--gates", help="folder of trained gates")
    command.add_argument("--adapter", help="shipped adapter or folder, merged into the weights")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights")


def load_model(options: argparse.Namespace, *, training: bool = False) -> Model:
    """The model of :func:`model_options`, and of ``--task`` where the command has it.

    Args:
        training: the gates need not be trained; else a warning is printed where they are not.
    """
    bars = Bars()
    task = getattr(options, "task", None)
    try:
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
    finally:
        bars.close()
    if not model.spec.trained and not training:
        print(
            f"WARNING: the gates of {options.model!r} are UNTRAINED; what they keep means nothing. "
            "Train some with: saa train",
            file=sys.stderr,
        )
    return model


def write_gates(model: Model, out: str) -> None:
    """Writes gates to which something was added, under the name that they had, and says where."""
    name = model.spec.gate if model.spec.trained else None
    print(f"gates: {save_gates(model, out, name=name, training=model.spec.training)}")
