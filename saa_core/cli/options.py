"""Options that several commands have, and the policy that they add up to. Without PyTorch."""

import argparse
from collections.abc import Iterable
from dataclasses import asdict

from saa_core.data.titles import FIRST
from saa_core.errors import PolicyError
from saa_core.types import DEFAULT_TAIL, FALLBACKS, GRANULARITIES, PAIR_LIMIT, Guard, Policy

KERNELS = ("native", "triton", "flex", "gather", "reference")
"""Keys of ``saa_core.kernels.KERNELS``, which needs PyTorch."""
POLICY_OPTIONS = (
    *("mass", "budget", "granularity", "kernel", "block", "sink", "local", "tail"),
    *("fallback", "crossover", "tokens"),
)
"""Of commands that have them; only some take ``tokens``."""


class HelpFormatter(argparse.HelpFormatter):
    """Room for the longest option, so that most descriptions begin on its line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def listed(values: Iterable[object]) -> str:
    """Several values as they are typed."""
    return " ".join(map(str, values))


def model_options(
    command: argparse.ArgumentParser, model: str | None = "smollm2", *, tasks: bool = False
) -> None:
    """Which model, with which gates, and where. ``model`` None: the one that is shown first, see
    :func:`saa_core.cli.models.name_model`; ``tasks``: the command takes ``--task``."""
    default = f'"{FIRST}"; smollm2 with --gates or --adapter' + ", minilm with --task" * tasks
    default = default if model is None else model
    command.add_argument(
        "--model",
        default=model,
        metavar="NAME",
        help="alias (also with what ships for it, as a title says it), hub id or folder of a model "
        f"(default: {default})",
    )
    command.add_argument(
        "--gates",
        metavar="FOLDER",
        help="folder of trained gates (default: those that ship for the model; fresh, untrained ones for others)",
    )
    command.add_argument(
        "--adapter",
        metavar="NAME",
        help="shipped adapter or folder, merged into the weights; brings its gates (default: none)",
    )
    device_option(command)
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="number format of the weights (default: float32 on a CPU, bfloat16 elsewhere)",
    )


def device_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where to compute: cpu, cuda, mps, or auto, the first there is of cuda, mps and cpu "
        "(default: %(default)s)",
    )


def store_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store",
        metavar="FOLDER",
        help="folder of recorded traces (default: SAA_STORE, or the user's data folder)",
    )


def data_option(command: argparse.ArgumentParser, use: str, default: str = "required") -> None:
    """Training texts; ``use`` says what becomes of their parts, ``default`` what happens without."""
    command.add_argument(
        "--data",
        nargs="+",
        required=default == "required",
        metavar="NAME",
        help="pinned texts (saa doctor lists them), kind:NAME for all of a kind, or text files; "
        f"{use}{'; required' if default == 'required' else f' (default: {default})'}",
    )


def seed_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of all that is drawn (default: %(default)s)",
    )


def column_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--text",
        "--column",
        dest="column",
        default="text",
        metavar="COLUMN",
        help="column of a table that holds the texts (default: %(default)s)",
    )


def cut_option(command: argparse.ArgumentParser, limit: str, where: str = "that") -> None:
    """Long texts are cut, which is counted and said; ``where`` says to which length, if not to ``limit``."""
    command.add_argument(
        "--no-cut",
        dest="cut",
        action="store_false",
        help=f"refuse texts longer than {limit} (default: cut to {where}, and say how many)",
    )
    command.add_argument(
        "--cut", action="store_true", help="cut them (default: this, unless --no-cut is given)"
    )
    command.set_defaults(cut=True, cuts=True)


def policy_options(command: argparse.ArgumentParser) -> None:
    """The fields of a policy; what is not given is as the model's default policy says."""
    shipped = "default: the model's own"
    group = command.add_argument_group("policy")
    group.add_argument(
        "--policy",
        metavar="FILE",
        help="policy file, as saa tune writes it, in place of all of these (default: none)",
    )
    group.add_argument(
        "--mass",
        type=float,
        metavar="SHARE",
        help=f"predicted attention mass to keep, over 0 to 1; not with --budget ({shipped})",
    )
    group.add_argument(
        "--budget",
        type=float,
        metavar="SHARE",
        help="pairs to compute at most, over 0 to 1; not with --mass (default: none)",
    )
    group.add_argument(
        "--granularity",
        choices=GRANULARITIES,
        help=f"decide pair by pair, in blocks, or pair by pair up to 512 tokens ({shipped})",
    )
    group.add_argument(
        "--kernel", choices=("auto", *KERNELS), help=f"what executes the decision ({shipped})"
    )
    group.add_argument(
        "--block",
        type=int,
        nargs=2,
        metavar=("QUERIES", "KEYS"),
        help=f"size of a block in tokens ({shipped})",
    )
    for name, what in (
        ("sink", "first tokens that are always kept"),
        ("local", "nearest tokens that are always kept, from 1"),
    ):
        group.add_argument(f"--{name}", type=int, metavar="TOKENS", help=f"{what} ({shipped})")
    group.add_argument(
        "--tail",
        type=int,
        metavar="TOKENS",
        help=f"last tokens, as queries, that see every key ({shipped}: {DEFAULT_TAIL} in language models "
        f"for texts over {PAIR_LIMIT} tokens, else 0)",
    )
    group.add_argument(
        "--fallback",
        choices=FALLBACKS,
        help="auto: compute densely what this machine was measured to gain nothing on, where no decision is "
        f"asked for; dense: texts shorter than --crossover; never: decide every text ({shipped})",
    )
    group.add_argument(
        "--crossover",
        type=int,
        metavar="TOKENS",
        help=f"length from which deciding pays, for --fallback dense ({shipped})",
    )
    group.add_argument(
        "--guard",
        type=float,
        metavar="SHARE",
        help="check and correct each request: missed mass at most, between 0 and 1 (default: none)",
    )
    group.add_argument(
        "--delta",
        type=float,
        metavar="SHARE",
        help=f"share of requests in which the guard may be wrong (default: {Guard.delta})",
    )


def policy_of(options: argparse.Namespace, default: Policy) -> Policy:
    """The default with what a person gave in its place; a mass replaces a budget, and the other way.

    Raises:
        PolicyError: a value is outside its range, or two options exclude each other.
    """
    given = {
        name: getattr(options, name)
        for name in POLICY_OPTIONS
        if getattr(options, name, None) is not None
    }
    if options.delta is not None and options.guard is None:
        raise PolicyError("--delta says how often a guard may be wrong; give --guard SHARE as well")
    if options.guard is not None:
        delta = {} if options.delta is None else {"delta": options.delta}
        given["guard"] = Guard(options.guard, **delta)
    if "mass" in given and "budget" in given:
        raise PolicyError(
            f"--mass {given['mass']:g} and --budget {given['budget']:g} exclude each other; give one"
        )
    if "mass" in given:
        given |= {"budget": None, "rule": "auto"}
    elif "budget" in given:
        given |= {"mass": None, "rule": "auto"}
    return Policy(**{**asdict(default), **given})


def refuse_beside_policy_file(options: argparse.Namespace) -> None:
    """A policy file holds as it is.

    Raises:
        PolicyError: ``--policy`` came with an option that would change it.
    """
    refuse_policy_options(options, "--policy", "what a file promises holds for it as it is")


def refuse_policy_options(options: argparse.Namespace, beside: str, why: str) -> None:
    """Raises PolicyError where an option that changes the policy came with one that says all of it."""
    names = (*POLICY_OPTIONS, "guard", "delta")
    given = [f"--{name}" for name in names if getattr(options, name, None) is not None]
    if given:
        raise PolicyError(f"{beside} and {', '.join(given)} exclude each other: {why}")


def label_option(command: argparse.ArgumentParser) -> None:
    """``--label``: the column of labels."""
    command.add_argument(
        "--label",
        default="label",
        metavar="COLUMN",
        help="column of a table that holds the labels (default: %(default)s)",
    )
