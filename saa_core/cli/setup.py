"""The commands that look after a machine: ``fetch`` and ``doctor``."""

import argparse


def fetch(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="alias of a model (default: smollm2, or none where --data is given)",
    )
    command.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="NAME",
        help="texts for training; saa doctor lists their names (default: none)",
    )
    command.set_defaults(run=_fetch)


def _fetch(options: argparse.Namespace) -> None:
    from saa_core.cli.bars import Bars
    from saa_core.data import fetch

    for name in options.models or ([] if options.data else ["smollm2"]):
        with Bars() as bars:
            folder = fetch.fetch_model(name, bars)
        print(f"{name}: {folder}")
        if note := fetch.models()[name].note:
            print(f"  weights: {note}")
    for name in options.data:
        with Bars() as bars:
            file = fetch.fetch_data(name, bars)
        print(f"{name}: {file}")
        note = fetch.datasets()[name].note
        if note:
            print(f"  note kept with these texts: {note}")


def doctor(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from saa_core.cli.doctor import examine

    topic, broken = "", 0
    for finding in examine():
        if finding.topic != topic:
            topic = finding.topic
            print(f"\n{topic}")
        somewhere = ("native", "triton", "flex")  # made for one kind of device each
        broken += topic == "kernels" and finding.name not in somewhere and not finding.ok
        print(f"  {'ok ' if finding.ok else '-- '} {finding.name:22} {finding.value}")
    return 1 if broken else 0
