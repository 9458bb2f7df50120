"""Commands that run a model on a text or on a length: ``run`` and ``measure``."""

import argparse
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from saa_core.cli.backend.ask import backend_option, run_there
from saa_core.cli.models import load_model_and_policy, read_one
from saa_core.cli.options import (
    model_options,
    policy_options,
    refuse_policy_options,
    store_option,
)
from saa_core.errors import PolicyError, TextError
from saa_core.types import Timing, quartiles

if TYPE_CHECKING:
    from saa_core.model import Model
    from saa_core.trace.trace import Trace


def run(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument("file", metavar="FILE", help="a text, or - for standard input")
    model_options(command, None)
    backend_option(command)
    command.add_argument(
        "--dense", action="store_true", help="plain dense attention (default: the policy)"
    )
    command.add_argument(
        "--cut",
        action="store_true",
        help="cut a text that is too long for the model (default: refuse it)",
    )
    command.add_argument(
        "--out", metavar="FILE", help="write the trace there (default: a new one in the store)"
    )
    store_option(command)
    command.add_argument(
        "--note", default="", metavar="TEXT", help="stored with the trace (default: none)"
    )
    command.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="WORD",
        help="stored with the trace; may be given several times (default: none)",
    )
    policy_options(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    text = read_one(options.file)
    trace = _run_here(options, text) if options.backend is None else run_there(options, text)
    from saa_core.store import Store

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


def _run_here(options: argparse.Namespace, text: str) -> "Trace":
    model, policy = load_model_and_policy(options)
    from saa_core.run.text import run

    if options.cut:
        text = _fitting(model, text)
    return run(model, text, None if options.dense else policy)


def _fitting(model: "Model", text: str) -> str:
    """The text, or as much of its start as the model takes."""
    from saa_core.run.text import encode

    try:
        encode(model, text)
    except TextError as error:
        if error.cut_at is None:
            raise
        print(
            f"saa: cut at {error.limit:,} of {error.length:,} tokens, after character "
            f"{error.cut_at:,}",
            file=sys.stderr,
        )
        return text[: error.cut_at]
    return text


def _table(trace: "Trace") -> Iterable[str]:
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


def _guard_lines(trace: "Trace") -> Iterable[str]:
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


def measure(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    model_options(command, None)
    command.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        metavar="TOKENS",
        help="lengths of text to time (default: 2048; with --profile 16 to 8192, as the model takes them)",
    )
    command.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="rounds, each of them dense and SAA (default: 7; with --profile 31 up to 256 tokens and 9 above)",
    )
    command.add_argument(
        "--profile",
        nargs="?",
        const="",
        metavar="FILE",
        help="measure the model's default by length, once for this machine, for the fallback 'auto' to go by; "
        "into FILE, or without a name into the cache folder (default: measure and only print)",
    )
    command.add_argument(
        "--json", metavar="FILE", help="also write the raw samples, in ms (default: none)"
    )
    policy_options(command)
    command.set_defaults(run=_measure)


def _measure(options: argparse.Namespace) -> None:
    if options.profile is not None:
        if options.policy is not None:
            raise PolicyError("--profile and --policy exclude each other: the default is measured")
        refuse_policy_options(options, "--profile", "the default is measured")
    model, policy = load_model_and_policy(options)
    if policy is None:
        raise PolicyError(f"--policy={options.policy!r} stays dense; there is nothing to compare")
    if options.profile is not None:
        _profile(options, model)
        return
    from saa_core.cli.bars import Bars
    from saa_core.files import write_json
    from saa_core.run.fallback import verdict_for
    from saa_core.run.timing import measure

    lengths = options.lengths or [2048]
    with Bars() as bars:
        found = measure(
            model,
            lengths,
            (None, policy),
            repeats=7 if options.repeats is None else options.repeats,
            progress=lambda _what, done, total: bars("measuring", done, total),
        )
    for line in timing_table(found):
        print(line)
    for length in lengths:
        verdict = verdict_for(model, policy, length)
        if verdict is not None and verdict.dense:
            print(f"computed densely, as fallback 'auto' says: {verdict.reason}")
    if options.json:
        write_json(Path(options.json), [asdict(timing) for timing in found])


def _profile(options: argparse.Namespace, model: "Model") -> None:
    from saa_core.attention.profiles import save_profiles
    from saa_core.cli.bars import Bars
    from saa_core.files import write_json
    from saa_core.run.profile import measure_profile

    with Bars() as bars:
        found = measure_profile(
            model,
            options.lengths,
            repeats=options.repeats,
            command=options.command,
            progress=lambda _what, done, total: bars("measuring", done, total),
        )
    machine = found[0].machine
    print(
        f"{machine.cpu} ({', '.join(machine.features)}), {machine.device}, {machine.threads} threads, "
        f"{found[0].dtype}"
    )
    for profile in found:
        print(
            f"{profile.model}, {profile.policy}, {profile.batch} at a time; times faster than dense:"
        )
        for times in profile.times:
            print(f"{times.length:6}  {times.gain:5.2f}")
    file = save_profiles(found, Path(options.profile) if options.profile else None)
    print(f"profile: {file}")
    if options.json:
        write_json(Path(options.json), [asdict(profile) for profile in found])


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
