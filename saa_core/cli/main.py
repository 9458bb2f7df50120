"""The ``saa`` command. Reads arguments, calls the library, prints; decides nothing itself."""

import argparse
import hashlib
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from saa_core.attach import attach, detach, save_gates
from saa_core.certify.policy_file import load_policy
from saa_core.cli import audit as cli_audit
from saa_core.cli import ood as cli_inputs
from saa_core.cli import records as cli_records
from saa_core.cli import reliability as cli_reliability
from saa_core.cli import tasks as cli_tasks
from saa_core.cli import tune as cli_tune
from saa_core.cli.bars import Bars
from saa_core.cli.doctor import examine
from saa_core.cli.models import load_model, model_options
from saa_core.data import corpus, fetch
from saa_core.errors import PolicyError, SAAError, TextError
from saa_core.files import write_json
from saa_core.kernels import KERNELS
from saa_core.model import Model
from saa_core.run.text import run
from saa_core.run.timing import measure
from saa_core.store import Store
from saa_core.trace.trace import Trace
from saa_core.train.calibrate import calibrate
from saa_core.train.distil import TrainConfig, train_gates
from saa_core.train.evaluate import EncoderQuality, Quality, evaluate, evaluate_encoder
from saa_core.train.joint import JointConfig, save_adapter, train_joint
from saa_core.types import FALLBACKS, GRANULARITIES, Guard, Policy, Timing, quartiles


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 for a refused request, 2 for wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    options.command = shlex.join(["saa", *given])
    if options.cache:
        os.environ["SAA_CACHE"] = options.cache
    try:
        status: int = options.run(options) or 0
    except SAAError as error:
        print(f"saa: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("saa: stopped", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saa",
        description="Sparse Adaptive Attention: a learned gate decides what is computed.",
    )
    parser.add_argument("--cache", help="folder for models and texts (default: SAA_CACHE)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("fetch", help="download pinned models and texts, verified")
    command.add_argument("models", nargs="*", metavar="MODEL", help="default: smollm2")
    command.add_argument("--data", nargs="+", default=[], metavar="NAME", help="texts for training")
    command.set_defaults(run=_fetch)

    command = commands.add_parser("doctor", help="what works on this machine")
    command.set_defaults(run=_doctor)

    command = commands.add_parser("run", help="run a text and write its trace")
    model_options(command)
    _policy_options(command)
    command.add_argument("file", metavar="FILE", help="UTF-8 text, or - for standard input")
    command.add_argument("--dense", action="store_true", help="plain dense attention, recorded")
    command.add_argument("--out", help="trace file, in place of a new one in the store")
    cli_records.store_option(command)
    command.add_argument("--note", default="", help="stored with the trace")
    command.add_argument("--tag", action="append", default=[], help="may be given several times")
    command.set_defaults(run=_run)

    command = commands.add_parser(
        "audit", help="compare dense and SAA on every text of a corpus, into the store; resumable"
    )
    model_options(command)
    _policy_options(command)
    cli_audit.options_of(command)
    cli_records.store_option(command)
    command.set_defaults(run=_audit, model=None)

    command = commands.add_parser("measure", help="time dense attention against SAA, interleaved")
    model_options(command)
    _policy_options(command)
    command.add_argument("--lengths", type=int, nargs="+", default=[2048], metavar="TOKENS")
    command.add_argument("--repeats", type=int, default=7, help="rounds (default: 7)")
    command.add_argument("--json", metavar="FILE", help="also write raw samples as JSON")
    command.set_defaults(run=_measure)

    command = commands.add_parser("train", help="train gates by distillation on a frozen model")
    model_options(command)
    command.add_argument("--data", nargs="+", required=True, metavar="NAME|FILE")
    command.add_argument("--steps", type=int, default=500)
    command.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 1024, 2048])
    command.add_argument("--rate", type=float, default=TrainConfig.rate, help="learning rate")
    command.add_argument("--pooled", type=int, help="queries per score row; as it is by default")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--fresh",
        action="store_true",
        help="start from new gates, not from the model's trained ones",
    )
    command.add_argument("--out", required=True, help="folder for the trained gates")
    command.add_argument("--checkpoint", help="folder to resume from (default: OUT/checkpoint)")
    command.add_argument("--windows", type=int, default=4, help="held-out windows to evaluate on")
    command.set_defaults(run=_train)

    command = commands.add_parser(
        "joint", help="train model and gates together, under the sparse mask (LoRA)"
    )
    model_options(command)
    command.add_argument("--data", nargs="+", required=True, metavar="NAME|FILE")
    command.add_argument("--steps", type=int, default=JointConfig.steps)
    command.add_argument("--lengths", type=int, nargs="+", default=list(JointConfig.lengths))
    command.add_argument("--rank", type=int, default=JointConfig.rank, help="of the adapter")
    command.add_argument("--rate", type=float, default=JointConfig.rate, help="learning rate")
    command.add_argument("--masses", type=float, nargs=2, default=list(JointConfig.masses))
    command.add_argument("--hard", type=int, default=JointConfig.hard, help="worst positions")
    command.add_argument("--pooled", type=int, help="queries per score row; as it is by default")
    command.add_argument("--start", help="folder of an adapter to go on from")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", required=True, help="folder for the adapter and its gates")
    command.add_argument("--checkpoint", help="folder to resume from (default: OUT/checkpoint)")
    command.set_defaults(run=_joint)

    command = commands.add_parser("calibrate", help="share missed mass out over the layers")
    model_options(command)
    command.add_argument("--data", nargs="+", required=True, metavar="NAME|FILE")
    command.add_argument("--mass", type=float, default=0.9, help="where to measure")
    command.add_argument("--length", type=int, default=1024, help="tokens per window")
    command.add_argument("--windows", type=int, default=1, help="per text")
    command.add_argument("--exponent", type=float, default=1.5, help="of movement in missed mass")
    command.add_argument("--out", required=True, help="folder for the calibrated gates")
    command.set_defaults(run=_calibrate)
    cli_reliability.register(commands)
    cli_inputs.register(commands)
    cli_tasks.register(commands)
    cli_records.register(commands)
    cli_tune.register(commands)
    return parser


def _policy_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--mass", type=float, help="share of predicted mass to keep, up to 1")
    command.add_argument("--budget", type=float, help="share of the pairs to compute at most")
    command.add_argument("--granularity", choices=GRANULARITIES)
    command.add_argument("--kernel", choices=("auto", *KERNELS))
    command.add_argument("--block", type=int, nargs=2, metavar=("QUERIES", "KEYS"))
    command.add_argument("--sink", type=int, help="first tokens that are always kept")
    command.add_argument("--local", type=int, help="nearest tokens that are always kept")
    command.add_argument("--tail", type=int, help="last queries that see every key")
    command.add_argument(
        "--fallback",
        choices=FALLBACKS,
        help="dense: compute shorter texts than --crossover densely",
    )
    command.add_argument("--crossover", type=int, help="tokens from which deciding pays")
    command.add_argument(
        "--guard",
        type=float,
        metavar="LIMIT",
        help="check and correct: share of mass missed at most",
    )
    command.add_argument("--delta", type=float, help="how often the guard may be wrong")
    command.add_argument(
        "--policy",
        metavar="FILE",
        help="policy file, as saa tune writes it, in place of all of these",
    )


def _fetch(options: argparse.Namespace) -> None:
    bars = Bars()
    names = options.models or ([] if options.data else ["smollm2"])
    for name in names:
        folder = fetch.fetch_model(name, bars)
        bars.close()
        print(f"{name}: {folder}")
    for name in options.data:
        file = fetch.fetch_data(name, bars)
        bars.close()
        print(f"{name}: {file}")
        note = fetch.datasets()[name].note
        if note:
            print(f"  note kept with these texts: {note}")


def _doctor(options: argparse.Namespace) -> int:
    topic, broken = "", 0
    for finding in examine():
        if finding.topic != topic:
            topic = finding.topic
            print(f"\n{topic}")
        broken += topic == "kernels" and finding.name not in ("native", "flex") and not finding.ok
        print(f"  {'ok ' if finding.ok else '-- '} {finding.name:22} {finding.value}")
    return 1 if broken else 0


POLICY_OPTIONS = (
    *("mass", "budget", "granularity", "kernel", "block", "sink", "local", "tail"),
    *("fallback", "crossover", "tokens"),
)
"""Of commands that have them; only some take ``tokens``."""


def _policy(options: argparse.Namespace, default: Policy) -> Policy:
    given = {
        name: getattr(options, name)
        for name in POLICY_OPTIONS
        if getattr(options, name, None) is not None
    }
    if options.delta is not None and options.guard is None:
        raise PolicyError("--delta says how often a guard may be wrong; give --guard LIMIT as well")
    if options.guard is not None:
        delta = {} if options.delta is None else {"delta": options.delta}
        given["guard"] = Guard(options.guard, **delta)
    if "budget" in given:
        given.setdefault("mass", None)  # the shipped default's; one that was asked for stays
    return Policy(**{**asdict(default), **given})


def _chosen(options: argparse.Namespace) -> tuple[Model, Policy | None]:
    """The model, and the policy of the options or of ``--policy``; None is dense.

    Bad values are refused before anything is loaded.
    """
    if options.policy is None:
        _policy(options, Policy())
        model = load_model(options)
        return model, _policy(options, model.spec.policy)
    names = (*POLICY_OPTIONS, "guard", "delta")
    given = [f"--{name}" for name in names if getattr(options, name, None) is not None]
    if given:
        raise PolicyError(
            f"--policy and {', '.join(given)} exclude each other: what a file promises holds for it as "
            "it is"
        )
    stored = load_policy(options.policy)
    if stored.policy is None:
        options.adapter = None
    model = load_model(options)
    stored.check(model)
    print(f"policy file: {stored.promise or stored.policy or 'dense'}")
    return model, stored.policy


def _run(options: argparse.Namespace) -> None:
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"FILE={options.file!r} cannot be read as UTF-8 text: {error}") from error
    model, policy = _chosen(options)
    trace = run(model, text, None if options.dense else policy)
    for line in _table(trace):
        print(line)
    if options.out:
        print(f"trace: {trace.save(options.out)}")
        return
    store = Store(options.store)
    run_id = store.add(trace, note=options.note, tags=options.tag)
    print(f"trace: {store.path(run_id)}")
    if options.store is None:  # of other folders the app knows nothing
        print(f"page, while the app runs: http://127.0.0.1:8501/run/{run_id}")


def _audit(options: argparse.Namespace) -> None:
    if options.model is None:
        options.model = "smollm2" if options.task is None else "minilm"
    files = cli_audit.files_of(options)
    cli_audit.run_audit(files, *_chosen(options), options)


def _table(trace: Trace) -> Iterable[str]:
    """One line per layer: density and mass, mean and range over heads."""
    L, H = trace.shape
    gate = trace.model.gate if trace.model.trained else "UNTRAINED"
    yield f"{trace.model.name}: {trace.keys} tokens, {L} layers x {H} heads, gate {gate}"
    made = "pair by pair" if trace.block == (1, 1) else "in blocks of {} x {}".format(*trace.block)
    policy = "dense" if trace.policy is None else f"{trace.policy}, decided {made}"
    yield f"policy: {policy}; kernel: {trace.execution.kernel} ({trace.execution.reason})"
    yield ""
    assert trace.retained_mass is not None
    middle = "" if trace.calibrated_mass is None else "   corrected %"
    yield f"layer   density %   min - max     predicted mass %{middle}   retained mass %"
    for layer in (*range(L), None):
        part = slice(None) if layer is None else layer
        density, name = 100 * trace.density[part], "all" if layer is None else layer
        corrected = ""
        if trace.calibrated_mass is not None:
            corrected = f"{100 * trace.calibrated_mass[part].mean():14.2f}"
        yield (
            f"{name:>5} {density.mean():11.1f} {density.min():6.1f} - {density.max():5.1f}"
            f"{100 * trace.predicted_mass[part].mean():19.2f}{corrected}"
            f"{100 * trace.retained_mass[part].mean():18.2f}"
        )
    yield from _guard_lines(trace)


def _guard_lines(trace: Trace) -> Iterable[str]:
    """What the guard did, one line per event."""
    for event in trace.events:
        suspected, done = event["suspected"], event.get("done")
        if suspected == "result":
            yield (
                f"guard: at most {100 * event['bound']:.2f} % of the mass missed (limit "
                f"{100 * event['limit']:g} %, wrong in {100 * event['delta']:g} % of requests at most); "
                f"estimate {100 * event['estimate']:.2f} % from {event['queries']} queries; layers in "
                f"full {event['full_layers']}"
            )
        elif suspected == "margin":
            yield (
                f"guard: the two most probable labels are {100 * event['measured']:.1f} points apart "
                f"(least {100 * event['limit']:g}) -> the dense side answered"
            )
        elif suspected == "bound":
            yield "guard: the limit could not be shown to be met; the whole text was computed densely"
        else:
            what = {
                "missed": "{measured:.1f} % of the mass missed, {after:.1f} % after adding",
                "scores": "a gate without usable scores",
                "reserve": "{measured:.1f} % missed so far, too near to the limit",
                "input": "unlike the training texts, distance {far:.2f} (limit {limit:.2f})",
            }[suspected]
            figures = {k: 100 * (event[k] or 0.0) for k in ("measured", "after")}
            figures |= {"far": event["measured"] or math.inf, "limit": event.get("limit")}
            heads = f", heads {' '.join(map(str, event['heads']))}" if event["heads"] else ""
            added = event.get("added")
            cost = "" if added is None else f", {100 * added:.2f} % of all pairs"
            yield f"guard: layer {event['layer']}{heads}: {what.format(**figures)} -> {done}{cost}"


def _measure(options: argparse.Namespace) -> None:
    model, policy = _chosen(options)
    if policy is None:
        raise PolicyError(f"--policy={options.policy!r} stays dense; there is nothing to compare")
    bars = Bars()
    found = measure(
        model,
        options.lengths,
        (None, policy),
        repeats=options.repeats,
        progress=lambda _what, done, total: bars("measuring", done, total),
    )
    bars.close()
    for line in timing_table(found):
        print(line)
    if options.json:
        write_json(Path(options.json), [asdict(timing) for timing in found])


def timing_table(found: list[Timing]) -> Iterable[str]:
    """Two lines per length: attention and whole forward pass, dense against SAA."""
    first = found[0]
    yield f"{first.device}, {first.dtype}, {first.threads} threads; median (quartiles) of ms"
    yield f"{'tokens':>6}  {'what':9} {'dense':>24} {'SAA':>24}  {'times faster':>20}  density  kernel"
    for dense, sparse in zip(found[::2], found[1::2], strict=True):
        for what, field in (("attention", "attention_ms"), ("prefill", "samples_ms")):
            low, middle, high = sparse.ratio(dense, field)
            yield (
                f"{dense.length:6}  {what:9} {_spread(getattr(dense, field)):>24} "
                f"{_spread(getattr(sparse, field)):>24}  "
                f"{middle:6.2f} ({low:.2f} - {high:.2f})  {sparse.density:7.2f}  {sparse.kernel}"
            )
        stages = ", ".join(f"{name} {value:.1f}" for name, value in sparse.stages_ms.items())
        yield f"        of the attention: {stages} ms; compiled before: {sparse.compile_ms:.0f} ms"


def _spread(samples: tuple[float, ...]) -> str:
    low, middle, high = quartiles(samples)
    return f"{middle:.1f} ({low:.1f} - {high:.1f})"


def _calibrate(options: argparse.Namespace) -> None:
    bars = Bars()
    texts = corpus.join_documents(corpus.documents(options.data, bars), "train", limit=400_000)
    bars.close()
    model = load_model(options)
    found = calibrate(
        model,
        texts,
        Policy(mass=options.mass, granularity="block"),
        length=options.length,
        windows=options.windows,
        exponent=options.exponent,
        progress=lambda done, total: bars("measuring layers", done, total),
    )
    bars.close()
    print("layer  slack  share")
    for layer, calibration in enumerate(found):
        print(f"{layer:5} {calibration.slack:6.2f} {calibration.share:6.2f}")
    training = dict(model.spec.training) | {"calibration": options.command}
    print(f"gates: {save_gates(model, options.out, training=training)}")


def _evaluated(
    model: Model, texts: dict[str, str], config: TrainConfig, windows: int
) -> list[dict[str, Any]]:
    """Held-out figures of freshly trained gates, printed and returned."""
    rows: list[Quality | EncoderQuality] = []
    length = min(1024, max(config.lengths))
    for name, text in texts.items():
        if len(model.tokenize(text)) < length:
            continue
        measured = evaluate if model.causal else evaluate_encoder
        rows += measured(model, text, name, length, [model.spec.policy], windows=windows)
    for row in rows:
        moved = (
            f"perplexity {row.ppl_increase_pct:+.2f} %"
            if isinstance(row, Quality)
            else f"embedding cosine {row.cosine:.4f}"
        )
        print(
            f"{row.text}: {row.length} tokens, density {row.density:.2f}, {moved} "
            f"({row.lo:.4g} to {row.hi:.4g}), {row.windows} windows"
        )
    return [asdict(row) for row in rows]


def _joint(options: argparse.Namespace) -> None:
    config = JointConfig(
        steps=options.steps,
        lengths=tuple(options.lengths),
        rank=options.rank,
        rate=options.rate,
        masses=tuple(options.masses),
        hard=options.hard,
        pooled=options.pooled,
        start=options.start,
        seed=options.seed,
        checkpoint=options.checkpoint or str(Path(options.out) / "checkpoint"),
    )
    bars = Bars()
    texts = corpus.join_documents(corpus.documents(options.data, bars), "train")
    bars.close()
    model = load_model(options)
    log = Path(config.checkpoint or options.out) / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as lines, tqdm(total=config.steps, unit="step") as bar:
        for step in train_joint(model, texts, config):
            lines.write(json.dumps(asdict(step)) + "\n")
            lines.flush()
            bar.n = step.step
            bar.set_postfix(divergence=f"{step.divergence:.4f}", gate=f"{step.gate_loss:.3f}")
    training = _provenance(model, options.command, config, texts)
    print(f"adapter: {save_adapter(model, options.out, training=training)}")


def _provenance(
    model: Model, command: str, config: TrainConfig | JointConfig, texts: dict[str, str]
) -> dict[str, Any]:
    """How gates came about: stored with them."""
    found: dict[str, Any] = {
        "command": command,
        "config": asdict(config) | {"checkpoint": None},
        "data_sha256": {
            source: hashlib.sha256(text.encode()).hexdigest() for source, text in texts.items()
        },
    }
    if model.spec.training:
        found["continues"] = dict(model.spec.training)
    return found


def _train(options: argparse.Namespace) -> None:
    config = TrainConfig(
        steps=options.steps,
        lengths=tuple(options.lengths),
        rate=options.rate,
        pooled=options.pooled,
        seed=options.seed,
        checkpoint=options.checkpoint or str(Path(options.out) / "checkpoint"),
    )
    torch.manual_seed(options.seed)
    bars = Bars()
    documents = corpus.documents(options.data, bars)
    bars.close()
    model = load_model(options, training=True)
    if options.fresh:
        fresh = attach(detach(model), model.tokenizer)
        named = replace(fresh.spec, name=options.model, adapter=model.spec.adapter)
        model = replace(fresh, spec=named)
    texts = corpus.join_documents(documents, "train")
    log = Path(config.checkpoint or options.out) / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as lines, tqdm(total=config.steps, unit="step") as bar:
        for step in train_gates(model, texts, config):
            lines.write(json.dumps(asdict(step)) + "\n")
            lines.flush()
            bar.n = step.step
            bar.set_postfix(loss=f"{step.loss:.3f}", density=f"{step.density:.2f}")
    evaluation = _evaluated(
        model, corpus.join_documents(documents, "heldout"), config, options.windows
    )
    training = _provenance(model, options.command, config, texts)
    folder = save_gates(
        model,
        options.out,
        training=training,
        evaluation={"quality": evaluation},
    )
    print(f"gates: {folder}")
