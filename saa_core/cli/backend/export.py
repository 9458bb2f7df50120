"""The command ``export``."""

import argparse

from saa_core.cli.options import column_option, label_option
from saa_core.data import labelled, tables
from saa_core.errors import PolicyError


def export(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "--task", required=True, metavar="NAME", help="shipped task or folder; required"
    )
    command.add_argument(
        "--out", required=True, metavar="FOLDER", help="where to write the model; required"
    )
    command.add_argument(
        "--model",
        default="minilm",
        metavar="NAME",
        help="alias, hub id or folder of an encoder (default: %(default)s)",
    )
    command.add_argument(
        "--int8",
        nargs="?",
        const="dynamic",
        choices=("dynamic", "static"),
        help="products with weights in int8: faster, and a few labels change; static fixes the scales of "
        "activations by calibration texts (default: float32; dynamic where only --int8 is given)",
    )
    command.add_argument(
        "--bf16",
        action="store_true",
        help="refused: ONNX Runtime multiplies nothing in bfloat16 on a CPU (default: float32)",
    )
    command.add_argument(
        "--data",
        metavar="DATA",
        help=f"labelled texts that int8 is calibrated and tested on: {', '.join(sorted(labelled.TASKS))}, "
        f"or a table ({tables.ENDINGS}) (default: those of the task, if it ships)",
    )
    column_option(command)
    label_option(command)
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from saa_core.cli.bars import Bars
    from saa_core.export.export import export
    from saa_core.export.manifest import read_manifest
    from saa_core.export.shrink import said_of
    from saa_core.loading import load
    from saa_core.run.classify import task_of

    for given, why in (
        (
            options.bf16,
            "--bf16: ONNX Runtime multiplies nothing in bfloat16 on a CPU; choose --int8",
        ),
        (
            options.data and not options.int8,
            "--data is for --int8, which it calibrates; leave it out",
        ),
    ):
        if given:
            raise PolicyError(why)
    with Bars() as bars:
        model = load(options.model, device="cpu", task=options.task, side="sparse", progress=bars)
    name: str = options.data or task_of(model).name
    known = options.int8 and (options.data or name in labelled.TASKS)
    examples = labelled.read(name, options.column, options.label) if known else []
    print(f"exported: {(folder := export(model, options.out, options.int8 or False, examples))}")
    print(said_of(read_manifest(folder).int8), end="")
