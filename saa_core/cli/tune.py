"""The command ``tune``: chooses a policy for one's own texts that keeps to a limit."""

import argparse
import hashlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from saa_core.certify.limits import QUANTITIES, RiskLimit
from saa_core.certify.tune_config import TuneConfig
from saa_core.cli.models import check_lengths, name_model, place, say_reading, warn_untrained
from saa_core.cli.options import column_option, cut_option, device_option, seed_option
from saa_core.data import tables
from saa_core.data.titles import FIRST
from saa_core.errors import PolicyError, TextError, choice

if TYPE_CHECKING:
    from saa_core.certify.tune import Tuned
    from saa_core.model import Model


def tune(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    config = TuneConfig()
    command.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="FILE",
        help=f"tables with a column of texts ({tables.ENDINGS}; labels are not needed), or plain text "
        "files, which are cut into windows; required",
    )
    command.add_argument(
        "--sla",
        required=True,
        metavar="QUANTITY=LIMIT",
        help=f"what you can accept: {', '.join(QUANTITIES)}, a share between 0 and 1, for example "
        "label_change=0.01; required",
    )
    command.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="where to write the study, its front and policy.json; required",
    )
    command.add_argument(
        "--delta",
        type=float,
        default=RiskLimit.delta,
        metavar="SHARE",
        help="chance that the choice breaks the limit, between 0 and 1 (default: %(default)s)",
    )
    command.add_argument(
        "--margin",
        type=float,
        default=RiskLimit.margin,
        metavar="X",
        help="for rare cases: what is tested is the limit divided by 1 + X, 0 to 100 "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        default=config.minutes,
        metavar="N",
        help="minutes of search and certifying together (default: %(default)s)",
    )
    command.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="settings to try at most in this run (default: as many as the time allows)",
    )
    command.add_argument(
        "--model",
        metavar="NAME",
        help="alias (also with what ships for it, as a title says it), hub id or folder of a model (default: "
        f'"{FIRST}"; smollm2 with --gates or --adapter, minilm with --task)',
    )
    command.add_argument(
        "--task", metavar="NAME", help="shipped task or folder, for label_change (default: none)"
    )
    command.add_argument(
        "--gates",
        metavar="FOLDER",
        help="folder of trained gates (default: those that ship for the model)",
    )
    command.add_argument(
        "--adapter",
        metavar="NAME",
        help="shipped adapter or folder, merged into the weights (default: none)",
    )
    column_option(command)
    cut_option(command, "the model, or the task, takes")
    command.add_argument(
        "--length",
        type=int,
        default=512,
        metavar="TOKENS",
        help="tokens of a window of a plain text file (default: %(default)s)",
    )
    command.add_argument(
        "--texts",
        type=int,
        default=2000,
        metavar="N",
        help="texts to use at most, the first ones (default: %(default)s)",
    )
    command.add_argument(
        "--pairs",
        action="store_true",
        help="also decide pair by pair, which keeps fewer pairs but saves no time (default: blocks only)",
    )
    seed_option(command)
    device_option(command)
    command.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> None:
    sla = _sla(options)
    config = TuneConfig(
        minutes=options.minutes, trials=options.trials, pairs=options.pairs, seed=options.seed
    )
    name_model(options)
    if sla.quantity == "label_change" and options.task is None:
        raise PolicyError("--sla label_change compares labels; name a task with --task")
    files = [_there(file) for file in options.data]
    from saa_core.certify.policy_file import save_policy
    from saa_core.certify.tune import tune
    from saa_core.certify.tune_files import write_results
    from saa_core.cli.bars import Bars
    from saa_core.loading import load

    name = options.model
    model = load(
        name,
        device=options.device,
        gates=options.gates,
        adapter=options.adapter,
        task=options.task,
        side="auto" if options.task is None else "sparse",
    )
    if not model.spec.trained and options.task is None:
        warn_untrained(name)
    texts = _texts(model, files, sla, options)
    folder = Path(options.out)
    baseline = _baseline(name, options)
    files_used = [{"file": str(file), "sha256": _sha256(file)} for file in files]

    def write(tuned: "Tuned") -> None:
        write_results(folder, tuned)
        data = {
            "files": files_used,
            "texts": len(texts),
            "searched": tuned.searched,
            "certified": tuned.certified,
            "seed": options.seed,
        }
        save_policy(
            folder / "policy.json", tuned.promise, model, data=data, command=options.command
        )

    with Bars("s") as bars:
        tuned = tune(
            model, texts, sla, folder, config, baseline=baseline, progress=bars, write=write
        )
    for line in _report(tuned):
        print(line)
    if sla.quantity != "label_change" and model.causal:
        for line in _rare(model, baseline, tuned):
            print(line)
    print(f"policy: {folder / 'policy.json'}")


def _texts(
    model: "Model", files: list[Path], sla: RiskLimit, options: argparse.Namespace
) -> list[str]:
    """The first texts of the files; long ones are cut to what is measured."""
    from saa_core.run.corpora import cut_to_fit, texts_of

    texts, places = list[str](), list[str]()
    for file in files:
        known = tables.Reading()
        read = texts_of(model, file, options.column, options.length, known)
        for text in islice(read, max(0, options.texts - len(texts))):
            texts.append(text)
            places.append(place(file, known))
        say_reading(file, known)
    if sla.quantity == "label_change" and model.task is not None:
        # Their token ids are cut where they are measured.
        check_lengths(model, texts, places, model.task.longest, cut=options.cut)
        return texts
    for index in check_lengths(model, texts, places, model.max_length, cut=options.cut):
        texts[index] = cut_to_fit(model, texts[index])
    return texts


def _sla(options: argparse.Namespace) -> RiskLimit:
    quantity, _, limit = options.sla.partition("=")
    if quantity not in QUANTITIES:
        raise PolicyError(choice("--sla", quantity, QUANTITIES))
    try:
        value = float(limit)
    except ValueError as error:
        raise PolicyError(
            f"--sla={options.sla!r} needs a limit, for example {quantity}=0.01"
        ) from error
    return replace(RiskLimit(**{quantity: value}), delta=options.delta, margin=options.margin)


def _baseline(name: str, options: argparse.Namespace) -> "Model | None":
    """What the loss is counted from; None is the model itself."""
    from saa_core.loading import load

    if options.task is not None:
        return load(name, task=options.task, side="dense", device=options.device)
    return None if options.adapter is None else load(name, device=options.device)


def _there(file: str) -> Path:
    if not Path(file).is_file():
        raise TextError(f"--data={file!r} is not a file")
    return Path(file)


def _report(tuned: "Tuned") -> list[str]:
    """The front, what was certified, and the slices."""
    from saa_core.certify.slices import slice_table
    from saa_core.certify.tune_files import describe_policy

    lines = [f"front, on {tuned.searched} texts:", "   loss %   work %   policy"]
    for trial in sorted(tuned.trials, key=lambda trial: trial.work):
        if trial.front:
            lines.append(
                f"{100 * trial.loss:9.2f}{100 * trial.work:9.1f}   {describe_policy(trial.policy)}"
            )
    lines += [
        f"certified, on {tuned.certified} other texts, safest first:",
        "   loss %   work %        p   policy",
    ]
    for setting in tuned.promise.settings:
        verdict = "" if setting.certified else "   not certified"
        lines.append(
            f"{100 * setting.loss:9.2f}{100 * setting.work:9.1f}{setting.p_value:9.4f}   "
            f"{describe_policy(setting.policy)}{verdict}"
        )
    return [*lines, "", *slice_table(tuned.slices), "", str(tuned.promise)]


def _rare(model: "Model", baseline: "Model | None", tuned: "Tuned") -> list[str]:
    """The rare-case set that ships, under the chosen policy."""
    from saa_core.certify.degradation import DegradationMeter
    from saa_core.certify.slices import by_rare_slice, rare_texts, slice_table, usable

    policy = tuned.promise.policy
    if policy is None:
        return []
    sla = tuned.promise.sla
    rare = usable(rare_texts(), model)
    meter = DegradationMeter(model, [each.text for each in rare], sla.quantity, baseline)
    return [
        "",
        "rare-case set:",
        *slice_table(by_rare_slice(rare, meter.of(policy), sla)),
        "",
    ]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
