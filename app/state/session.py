"""The only place that loads models, runs them and keeps results. Knows no page and no chart.

A page makes a `Request`, hands it to the `Client` and gets a `Result`; both are frozen. The client
works in this process; one that talks to a backend would have the same two methods.
"""

import hashlib
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import streamlit as st
import torch

import saa_core as saa
from saa_core.certify.degradation import Degradation
from saa_core.certify.policy_file import read_policy
from saa_core.certify.slices import Rare, one_by_one
from saa_core.data import fetch
from saa_core.explain.damage import damage_gates
from saa_core.explain.difference import Difference, difference
from saa_core.explain.effects import Effect, effects
from saa_core.explain.pair import LayerInputs
from saa_core.explain.tradeoff import MASSES, Point, tradeoff
from saa_core.run.flops import flops_against_dense
from saa_core.trace.align import Alignment, align
from saa_core.trace.check import check

TASKS = tuple(fetch.list_shipped("tasks", "minilm"))
MODELS = ("smollm2", "smollm2 + saa-joint", "minilm", *(f"minilm + {task}" for task in TASKS))
"""What can be chosen from the list; any hub id or folder can be typed."""
MODELS_KEPT = 4
RESULTS_KEPT = 6
REPEATS = 3
NEW_TOKENS = 6
LATENCY_REPEATS = 5
WARM_UP = {"short": 60, "long": 620}
"""Tokens of the texts that are run once before the first real one. Above 512 tokens the block
kernel runs, and its first run compiles."""

StepReport = Callable[[str, float], None]
"""Called with the step's name (a key of the text files) and the share that is done."""


@dataclass(frozen=True)
class Request:
    """What one press of the button asks for."""

    model: str
    text: str
    policy: saa.Policy


@dataclass(frozen=True)
class Side:
    """One of two runs that are compared; policy None is dense, by the original model."""

    model: str
    text: str
    policy: saa.Policy | None


@dataclass(frozen=True, eq=False)
class Compared:
    """Two runs and what differs. ``output`` and ``decisions`` are None where the two models cannot be
    laid over each other. ``next_words`` are the likeliest next tokens of both at each aligned token."""

    sides: tuple[Side, Side]
    traces: tuple[saa.Trace, saa.Trace]
    alignment: Alignment | None
    output: saa.Comparison | None
    decisions: Difference | None
    next_words: tuple[tuple[str, ...], tuple[str, ...]] | None


@dataclass(frozen=True, eq=False)
class Choice:
    """What the sidebar says: model (None if it could not be loaded, or is not needed), policy, an
    opened file, the id of an opened trace of the store, what a policy file promises."""

    name: str
    model: saa.Model | None
    policy: saa.Policy
    recording: Any = None
    stored: str | None = None
    promise: saa.Certificate | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """What came out, live or recorded. None is what this kind of result does not have, or not yet:
    times and continuations follow when the rest is on the page. ``flops_share`` is of a task: the
    operations of SAA's layers against those of dense."""

    trace: saa.Trace
    request: Request | None = None
    spec: saa.Spec | None = None
    dense: saa.Trace | None = None
    comparison: saa.Comparison | None = None
    dense_timing: saa.Timing | None = None
    timing: saa.Timing | None = None
    dense_words: str | None = None
    words: str | None = None
    flops_share: float | None = None
    written: bool = False
    recorded_as: str | None = None
    keep_alive: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class GuardTrial:
    """What is tried on a text: its run again, with a guard and without, and maybe a damaged gate.

    Args:
        damage: one of saa_core.explain.damage.KINDS; None is the gate as it is.
    """

    request: Request
    guard: saa.Guard
    damage: str | None = None


@dataclass(frozen=True, eq=False)
class GuardTrialResult:
    """What came out of a trial; ``alike`` is the agreement with dense of (blind, guarded): the share of
    positions with the same most likely next token, or the cosine of the embeddings of an encoder."""

    trial: GuardTrial
    blind: saa.Trace
    guarded: saa.Trace
    alike: tuple[float, float]
    blind_timing: saa.Timing
    guarded_timing: saa.Timing


@dataclass(frozen=True)
class Source:
    """Where a model comes from: alias, hub id or folder; gate folder; adapter; task and its side."""

    model: str
    gates: str | None = None
    adapter: str | None = None
    task: str | None = None
    side: str = "auto"


def shipped() -> dict[str, Source]:
    """The models of the list."""
    found = {}
    for name in MODELS:
        model, _, part = name.partition(" + ")
        kind = "task" if part in TASKS else "adapter"
        found[name] = Source(model, **{kind: part or None})
    return found


@dataclass
class ModelRegistry:
    """What all sessions share: loaded models and the lock that keeps runs apart."""

    models: dict[str, saa.Model] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=shipped)
    warm: dict[str, set[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(show_spinner=False)
def shop() -> ModelRegistry:
    return ModelRegistry()


def identify(model: str, gates: str) -> str:
    """One name for a model with a gate folder of the visitor's; the model's own name without one."""
    if not gates:
        return model
    name = f"{model} + {gates}"
    known = shop().sources.get(model, Source(model))
    shop().sources[name] = replace(known, gates=gates)
    return name


class Client:
    """Runs requests in this process, one at a time, so that people do not spoil each other's
    latencies. A page that is left in the middle stops at the next report."""

    def model(self, name: str, report: fetch.Progress | None = None) -> saa.Model:
        """A loaded model, shared by all sessions; nobody's choices are kept on it.

        Args:
            name: what `identify` gave, or an alias, hub id or folder.

        Raises:
            ModelError, FetchError, GateError: see :func:`saa_core.load`.
        """
        shared = shop()
        if name not in shared.models:
            with shared.lock:
                if name not in shared.models:
                    source = shared.sources.get(name, Source(name))
                    model = saa.load(
                        source.model,
                        gates=source.gates,
                        adapter=source.adapter,
                        task=source.task,
                        side=source.side,
                        progress=report,
                    )
                    for old in list(shared.models)[: 1 - MODELS_KEPT]:
                        del shared.models[old]
                        shared.warm.pop(old, None)
                    shared.models[name] = model
        return shared.models[name]

    def original(self, name: str) -> saa.Model:
        """The model that a result is compared with: the same one, without an adapter; of a task its
        dense side."""
        source = shop().sources.get(name, Source(name))
        if source.task is not None:
            dense = f"{name}, dense"
            shop().sources[dense] = replace(source, side="dense")
            return self.model(dense)
        return self.model(name if source.adapter is None else source.model)

    def cold(self, name: str) -> list[str]:
        """Warm-up steps that this model still needs."""
        return [step for step in WARM_UP if step not in shop().warm.get(name, set())]

    def warm_up(self, name: str, step: str) -> None:
        """Runs a text of one kind once, dense and sparse, so that no visitor waits for it."""
        model = self.model(name)
        text = novel()
        ids = model.tokenizer(text[: 12 * WARM_UP[step]], return_offsets_mapping=True)
        offsets = ids["offset_mapping"][: min(WARM_UP[step], model.max_length - 8)]
        with shop().lock:
            for policy in (None, model.spec.policy):
                saa.run(model, text[: offsets[-1][1]], policy)
        shop().warm.setdefault(name, set()).add(step)

    def inputs(self, result: Result, layer: int) -> LayerInputs:
        """What a layer saw, to take scores apart; runs the model once more, the first time.

        Raises:
            TraceError: the result was not made by a model of this process.
        """
        if result.request is None:
            raise saa.TraceError("a recorded trace has no model to ask")
        return _inputs(self.model(result.request.model), result.trace, layer)

    def run(self, request: Request, report: StepReport, earlier: Result | None = None) -> Result:
        """Runs a text dense and with SAA and compares the two; times and words are still to come.

        Dense is the original model, also where an adapter was merged into the one with SAA.

        Args:
            earlier: a result whose dense side is used again if it is of the same text and model.

        Raises:
            SAAError: a sentence for the reader is made of it by the page.
        """
        report("wait", 0.0)
        model, original = self.model(request.model), self.original(request.model)
        text = request.text
        same = earlier is not None and earlier.request is not None
        same = same and (earlier.request.model, earlier.request.text) == (request.model, text)
        with shop().lock:
            report("dense", 0.05)
            dense = earlier.dense if same else saa.run(original, text)
            report("sparse", 0.45)
            trace = saa.run(model, text, request.policy)
            report("compare", 0.9)
            comparison = saa.compare(dense, trace)
        report("done", 1.0)
        return Result(
            trace=trace,
            request=request,
            spec=model.spec,
            dense=dense,
            comparison=comparison,
            flops_share=_flops_share(model, trace),
        )

    def time(self, result: Result, report: StepReport) -> Result:
        """The result with the times of both sides, measured in turns."""
        assert result.request is not None
        model = self.model(result.request.model)
        report("wait", 0.0)
        with shop().lock:
            dense_timing, timing = saa.measure(
                model,
                lengths=(),
                policies=(None, result.request.policy),
                text=result.request.text,
                repeats=REPEATS,
                warm_up=False,  # the text has just run both ways
                progress=lambda _what, done, total: report("time", done / total),
            )
        trace = replace(result.trace, timing=(dense_timing, timing))
        return replace(result, trace=trace, dense_timing=dense_timing, timing=timing)

    def sweep(self, result: Result, report: StepReport) -> list[Point]:
        """The text of a result under settings from sparse to nearly dense."""
        assert result.request is not None
        model = self.model(result.request.model)
        steps = tradeoff(
            model, result.request.text, policy=result.request.policy, dense=result.dense
        )
        found = list[Point]()
        for turn in range(len(MASSES)):
            report("sweep", turn / len(MASSES))
            with shop().lock:  # point by point: others may run in between
                found.append(next(steps))
        return found

    def attempt(self, trial: GuardTrial, dense: saa.Trace, report: StepReport) -> GuardTrialResult:
        """Runs a text without a guard and with one, under a gate that may be damaged.

        A damaged gate is another model, made for this trial alone: it shares the weights of the loaded
        one, has gates of its own, and is gone when the trial is over.

        Args:
            dense: of the same text.

        Raises:
            SAAError: a sentence for the reader is made of it by the page.
        """
        report("wait", 0.0)
        request = trial.request
        model = self.model(request.model)
        if trial.damage is not None:
            model = damage_gates(model, trial.damage)
        policies = [replace(request.policy, guard=guard) for guard in (None, trial.guard)]
        with shop().lock:
            report("blind", 0.1)
            blind = saa.run(model, request.text, policies[0])
            report("guarded", 0.35)
            guarded = saa.run(model, request.text, policies[1])
            report("time", 0.6)
            timings = saa.measure(
                model,
                lengths=(),
                policies=policies,
                text=request.text,
                repeats=REPEATS,
                warm_up=False,
                progress=lambda _what, done, total: report("time", 0.6 + 0.4 * done / total),
            )
        alike = tuple(_alike(dense, trace) for trace in (blind, guarded))
        return GuardTrialResult(trial, blind, guarded, alike, *timings)

    def latency(
        self, name: str, policy: saa.Policy, lengths: tuple[int, ...], report: StepReport
    ) -> list[saa.Timing]:
        """Dense and SAA in turn at several lengths of a novel, on this machine."""
        model = self.model(name)
        report("wait", 0.0)
        with shop().lock:
            return saa.measure(
                model,
                lengths,
                (None, policy),
                repeats=LATENCY_REPEATS,
                progress=lambda _what, done, total: report("time", done / total),
            )

    def effects(
        self, result: Result, layer: int, head: int | None, known: Collection[Effect]
    ) -> Iterator[Effect]:
        """What leaving out each block of a layer does, block by block; `known` ones are passed over.

        Raises:
            SAAError: see :func:`saa_core.explain.effects.effects`.
        """
        assert result.request is not None
        steps = effects(
            self.model(result.request.model),
            result.trace,
            layer,
            head,
            known=[(effect.queries, effect.keys) for effect in known],
        )
        while True:
            with shop().lock:  # block by block: others may run in between
                found = next(steps, None)
            if found is None:
                return
            yield found

    def rare(
        self, name: str, policy: saa.Policy, quantity: str, texts: Sequence[Rare]
    ) -> Iterator[Degradation]:
        """What a policy costs on each of these texts, one after the other.

        Raises:
            SAAError: see :class:`saa_core.certify.degradation.DegradationMeter`.
        """
        steps = one_by_one(texts, self.model(name), policy, quantity, self.original(name))
        while True:
            with shop().lock:  # text by text: others may run in between
                found = next(steps, None)
            if found is None:
                return
            yield found

    def compare(self, sides: tuple[Side, Side], report: StepReport) -> Compared:
        """Runs both sides, unless this visitor has just run them, and lays them over each other.

        Raises:
            SAAError: a sentence for the reader is made of it by the page.
        """
        report("wait", 0.0)
        first, second = (
            self._side(side, lambda step, at=at: report(step, 0.05 + 0.4 * at))
            for at, side in enumerate(sides)
        )
        report("compare", 0.85)
        alignment = output = decisions = names = None
        models = [self._model_of(side) for side in sides]
        vocabularies = [model.tokenizer.get_vocab() for model in models]
        if vocabularies[0] == vocabularies[1]:
            alignment = align(first.token_ids.tolist(), second.token_ids.tolist())
        if alignment is not None and first.shape == second.shape:
            output = saa.compare(first, second, alignment)
            decisions = difference(first, second, alignment)
            if first.top_ids is not None and second.top_ids is not None:
                tops = first.top_ids[list(alignment.first)], second.top_ids[list(alignment.second)]
                names = tuple(
                    tuple(model.tokenizer.batch_decode(top[:, :1].tolist()))
                    for model, top in zip(models, tops, strict=True)
                )
        report("done", 1.0)
        return Compared(sides, (first, second), alignment, output, decisions, names)

    def _model_of(self, side: Side) -> saa.Model:
        return self.original(side.model) if side.policy is None else self.model(side.model)

    def _side(self, side: Side, report: Callable[[str], None]) -> saa.Trace:
        kept: dict[Side, saa.Trace] = st.session_state.setdefault("sides", {})
        if side not in kept:
            model = self._model_of(side)
            report("dense" if side.policy is None else "sparse")
            with shop().lock:
                kept[side] = saa.run(model, side.text, side.policy)
            for old in list(kept)[:-RESULTS_KEPT]:
                del kept[old]
        return kept[side]

    def write(self, result: Result) -> Iterator[Result]:
        """The result again and again, while both sides go on writing behind the text."""
        assert result.request is not None
        request = result.request
        sides = [
            saa.generate(model, request.text, policy, max_new_tokens=NEW_TOKENS)
            for model, policy in (
                (self.original(request.model), None),
                (self.model(request.model), request.policy),
            )
        ]
        steps, written = zip_longest(*sides, fillvalue=""), ["", ""]
        while True:
            with shop().lock:  # step by step: a page that is left in the middle must not keep it
                pieces = next(steps, None)
            if pieces is None:
                break
            written = [so_far + piece for so_far, piece in zip(written, pieces, strict=True)]
            yield replace(result, dense_words=written[0], words=written[1])
        yield replace(result, dense_words=written[0], words=written[1], written=True)


def _alike(dense: saa.Trace, trace: saa.Trace) -> float:
    found = saa.compare(dense, trace)
    same = found.top1_agreement
    return found.embedding_cosine if same is None else float(same.mean())


def _flops_share(model: saa.Model, trace: saa.Trace) -> float | None:
    """Operations of all layers, gates included, against dense; None without a task. Over 1 where the
    dense side was asked after all."""
    if model.task is None:
        return None
    asked = next((event for event in trace.events if event["suspected"] == "margin"), None)
    if asked is not None:
        return 1.0 + float(asked["spent"])
    if trace.kept_tokens is None or trace.policy is None or trace.policy.tokens is None:
        return 1.0
    needed = torch.from_numpy(trace.kept_tokens.sum(1))[None]
    done, dense = flops_against_dense(model, needed, gates=trace.policy.tokens < 1)
    return float(done / dense)


def _inputs(model: saa.Model, trace: saa.Trace, layer: int) -> LayerInputs:
    """Queries and keys of a layer of the visitor's current text, kept until another is asked for."""
    kept = st.session_state.get("inputs")
    if kept is None or kept[0] is not trace or kept[1] != layer:
        with shop().lock:
            kept = (trace, layer, LayerInputs(model, trace, layer))
        st.session_state["inputs"] = kept
    found: LayerInputs = kept[2]
    return found


def remember(result: Result) -> None:
    """Keeps a result for this visitor, so that no widget ever computes it again."""
    results = st.session_state.setdefault("results", {})
    results[result.request] = result
    for old in list(results)[:-RESULTS_KEPT]:
        del results[old]


def recall(request: Request) -> Result | None:
    found: Result | None = st.session_state.get("results", {}).get(request)
    return found


def without_forces(result: Result) -> Result | None:
    """The same run by the gate alone, if this visitor has seen it."""
    if result.request is None:
        return None
    return recall(replace(result.request, policy=replace(result.request.policy, force=())))


def open_trace(name: str, content: bytes) -> Result:
    """A recorded trace from an uploaded file.

    Raises:
        TraceError: the file is no trace, or its parts do not fit together.
    """
    digest = hashlib.sha256(content).hexdigest()
    kept: tuple[str, Result] | None = st.session_state.get("recorded")
    if kept is not None and kept[0] == digest:
        return kept[1]
    file = tempfile.NamedTemporaryFile(suffix=".saa")  # noqa: SIM115, lives as long as the result
    file.write(content)
    file.flush()
    trace = saa.Trace.load(file.name)
    check(trace)
    result = recorded(trace, name, keep_alive=file)
    st.session_state["recorded"] = (digest, result)
    return result


def recorded(
    trace: saa.Trace, name: str, dense: saa.Trace | None = None, keep_alive: Any = None
) -> Result:
    """A recorded trace as a result, with the recorded dense run of the same text if there is one.

    Embeddings are compared; next tokens are not, since that takes the model.
    """
    times = {timing.name == "dense": timing for timing in trace.timing}
    alike = dense is not None and trace.top_ids is None and dense.hidden is not None
    alike = alike and trace.hidden is not None
    return Result(
        trace=trace,
        dense=dense,
        comparison=saa.compare(dense, trace) if dense is not None and alike else None,
        dense_timing=times.get(True),
        timing=times.get(False),
        recorded_as=name,
        keep_alive=keep_alive,
    )


@st.cache_data(show_spinner=False, max_entries=64)
def count_tokens(_model: saa.Model, name: str, text: str) -> int:
    """Length of a text in tokens of a model; ``name`` stands for the model in the cache."""
    return len(_model.tokenizer(text, verbose=False)["input_ids"])


@st.cache_data(show_spinner=False, max_entries=16)
def open_policy(content: bytes, name: str, _model: saa.Model) -> saa.StoredPolicy:
    """An uploaded policy file, of the model that it was chosen for; ``name`` stands for the model in
    the cache.

    Raises:
        PolicyError: it is no policy file, or was chosen for another model or other gates.
    """
    stored = read_policy(content)
    if stored.policy is not None:
        stored.check(_model)
    return stored


def trace_bytes(trace: saa.Trace) -> bytes:
    """The trace as the file that :func:`open_trace` opens."""
    with tempfile.TemporaryDirectory() as folder:
        return trace.save(Path(folder) / "run.saa").read_bytes()


@st.cache_data(show_spinner=False)
def novel() -> str:
    return (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
