"""The part of the `saa` command that chooses policies for one's own texts: ``tune``."""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from saa_core.certify.degradation import DegradationMeter
from saa_core.certify.limits import QUANTITIES, RiskLimit
from saa_core.certify.policy_file import save_policy
from saa_core.certify.slices import by_rare_slice, rare_texts, slice_table, usable
from saa_core.certify.tune import TuneConfig, Tuned, tune
from saa_core.certify.tune_files import describe_policy, write_results
from saa_core.cli.bars import Bars
from saa_core.errors import PolicyError, TextError, choice
from saa_core.loading import load
from saa_core.model import Model
from saa_core.run.corpora import texts_of


def register(commands: Any) -> None:
    """Adds the command to the parser of ``saa``."""
    command = commands.add_parser(
        "tune", help="choose a policy for your texts that keeps to what you can accept"
    )
    command.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="FILE",
        help="tables with a column of texts (.csv, .jsonl, .parquet; labels are not needed), or plain "
        "text files, which are cut into windows",
    )
    command.add_argument(
        "--sla",
        required=True,
        metavar="QUANTITY=LIMIT",
        help=f"{', '.join(QUANTITIES)}; for example label_change=0.01",
    )
    command.add_argument(
        "--delta", type=float, default=RiskLimit.delta, help="how often it may be broken"
    )
    command.add_argument(
        "--margin",
        type=float,
        default=RiskLimit.margin,
        help="for rare cases; divides the limit by 1 + it",
    )
    command.add_argument("--out", required=True, help="folder for study, front and policy.json")
    command.add_argument("--minutes", type=float, default=TuneConfig.minutes)
    command.add_argument("--trials", type=int, help="settings to try at most in this run")
    command.add_argument("--model", help="alias, hub id or folder (smollm2; minilm with --task)")
    command.add_argument("--task", help="shipped task or folder, for label_change")
    command.add_argument("--gates", help="folder of trained gates")
    command.add_argument("--adapter", help="shipped adapter or folder, merged into the weights")
    command.add_argument("--column", default="text", help="of a table")
    command.add_argument("--length", type=int, default=512, help="tokens per window of a text file")
    command.add_argument("--texts", type=int, default=2000, help="texts to use at most")
    command.add_argument("--pairs", action="store_true", help="also decide pair by pair")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    command.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> None:
    sla = _sla(options)
    config = TuneConfig(
        minutes=options.minutes, trials=options.trials, pairs=options.pairs, seed=options.seed
    )
    if sla.quantity == "label_change" and options.task is None:
        raise PolicyError("--sla label_change compares labels; name a task with --task")
    files = [_there(file) for file in options.data]
    name = options.model or ("smollm2" if options.task is None else "minilm")
    model = load(
        name,
        device=options.device,
        gates=options.gates,
        adapter=options.adapter,
        task=options.task,
        side="auto" if options.task is None else "sparse",
    )
    if not model.spec.trained and options.task is None:
        print(f"WARNING: the gates of {name!r} are UNTRAINED", file=sys.stderr)
    texts = [
        text for file in files for text in texts_of(model, file, options.column, options.length)
    ][: options.texts]
    folder = Path(options.out)
    baseline = _baseline(name, options)
    bars = Bars("s")
    try:
        tuned = tune(model, texts, sla, folder, config, baseline=baseline, progress=bars)
    finally:
        bars.close()
    write_results(folder, tuned)
    data = {
        "files": [{"file": str(file), "sha256": _sha256(file)} for file in files],
        "texts": len(texts),
        "searched": tuned.searched,
        "certified": tuned.certified,
        "seed": options.seed,
    }
    file = save_policy(
        folder / "policy.json", tuned.promise, model, data=data, command=options.command
    )
    for line in _report(tuned):
        print(line)
    if sla.quantity != "label_change" and model.causal:
        for line in _rare(model, baseline, tuned):
            print(line)
    print(f"policy: {file}")


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


def _baseline(name: str, options: argparse.Namespace) -> Model | None:
    """What the loss is counted from; None is the model itself."""
    if options.task is not None:
        return load(name, task=options.task, side="dense", device=options.device)
    return None if options.adapter is None else load(name, device=options.device)


def _there(file: str) -> Path:
    if not Path(file).is_file():
        raise TextError(f"--data={file!r} is not a file")
    return Path(file)


def _report(tuned: Tuned) -> list[str]:
    """The front, what was certified, and the slices."""
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


def _rare(model: Model, baseline: Model | None, tuned: Tuned) -> list[str]:
    """The rare-case set that ships, under the chosen policy."""
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
