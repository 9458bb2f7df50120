"""The client: the only place that runs models. It works in this process.

A page makes a request and gets a value; both are frozen (live/values.py). A client that talks to a
backend would have the same methods.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import saa_core as saa
from app.live.answers import Answers
from app.live.jobs import JOBS, AbandonedError, Jobs, Report
from app.live.models import REGISTRY, ModelRegistry
from app.live.passes import Countdown, agreement, lay_together
from app.live.results import SHARED, SharedResults
from app.live.values import Compared, GuardTrial, GuardTrialResult, Request, Result, Side
from saa_core.audit.audit import Audit, Done
from saa_core.audit.table import ROWS, ColumnTexts
from saa_core.audit.texts import CheckedTexts, check_texts
from saa_core.certify.degradation import Degradation
from saa_core.certify.slices import Rare, one_by_one
from saa_core.data import fetch
from saa_core.explain.damage import damage_gates
from saa_core.explain.effects import Effect, effects
from saa_core.explain.pair import LayerInputs
from saa_core.explain.tradeoff import MASSES, Point, tradeoff
from saa_core.run.corpora import texts_of
from saa_core.run.timeline import Timeline, timeline
from saa_core.store import Store
from saa_core.types import StepProgress

LATENCY_REPEATS = 5
TRIAL_REPEATS = 3
AUDIT_SECONDS = 0.5
"""Time after which what an audit ran is stored: what a cancelled one loses at most."""
WARM_UP = {"short": 60, "long": 620}
"""Tokens of the texts that are run once before the first real one. Above 512 tokens the block
kernel runs, and its first run compiles."""

T = TypeVar("T")


class Client:
    """Runs requests one at a time and visitors in turn, so that people do not spoil each other's latencies.
    First figures come before anything else. A page that is left in the middle stops at the next report.

    Every method may raise an SAAError; the page makes a sentence of it.
    """

    def __init__(
        self,
        registry: ModelRegistry = REGISTRY,
        shared: SharedResults = SHARED,
        jobs: Jobs = JOBS,
    ) -> None:
        self.registry = registry
        self.shared = shared
        self.jobs = jobs
        self._answers = Answers(
            registry, shared, lambda name: (self.model(name), self.original(name))
        )

    def model(self, name: str, report: StepProgress | None = None) -> saa.Model:
        """A loaded model, shared by all sessions; nobody's choices are kept on it.

        Args:
            name: what ``registry.identify`` gave, or an alias, hub id or folder.
        """
        return self.registry.get(name, report)

    def original(self, name: str) -> saa.Model:
        """The model that a result is compared with: the same one, without an adapter; of a task its
        reference model."""
        source = self.registry.source(name)
        if source.task is not None:
            return self.registry.reference(name)
        return self.model(name if source.adapter is None else source.model)

    def cold(self, name: str) -> list[str]:
        """Warm-up steps that this model still needs."""
        return [step for step in WARM_UP if step not in self.registry.warm(name)]

    def warm_up(self, name: str, step: str) -> None:
        """Runs a text of one kind once, dense and sparse, so that no visitor waits for it."""
        model = self.model(name)
        self.original(name)  # what a first run is compared with
        ids = model.tokenizer(novel()[: 12 * WARM_UP[step]], return_offsets_mapping=True)
        offsets = ids["offset_mapping"][: min(WARM_UP[step], model.max_length - 8)]
        with self.registry.run(name):
            if step in self.registry.warm(name):  # another visitor's page has done it meanwhile
                return
            for policy in (None, model.spec.policy):
                saa.run(model, novel()[: offsets[-1][1]], policy)
        self.registry.set_warm(name, step)

    def run(self, request: Request, report: Report, earlier: Result | None = None) -> Result:
        """Reads a text once dense and once with SAA, goes on writing from both and compares them. Times are
        those of the two passes; rounds of the clock, and of a long text the rest of the comparison, are still to
        come (:meth:`time`).

        Dense is the original model, also where an adapter was merged into the one with SAA. Who asks for what
        somebody else has asked for gets the same, and waits for the same run.

        Args:
            earlier: a result whose dense run is used again if it is of the same text and model.
        """
        while True:
            found = self.shared.get(request)
            if found is not None:
                return found
            work = partial(self._answers.all, request=request, earlier=earlier)
            job = self.jobs.join(request, work)
            try:
                for _, result in job.follow(report):
                    return result
            except AbandonedError:  # it ended as this one came
                continue

    def time(self, result: Result, report: Report) -> Iterator[Result]:
        """The result as it gets better: compared everywhere, and again after each round of the clock; the
        sides run in turn."""
        request = _live(result)
        known = result
        while not known.complete:
            found = self.shared.get(request)
            if found is not None and _further(found, known):
                known = found
                yield known
                continue
            job = self.jobs.join(request, partial(self._answers.rest, result=known))
            try:
                for _, answer in job.follow(report):
                    if _further(answer, known):
                        known = answer
                        yield known
            except AbandonedError:
                continue

    def stop(self, request: Request) -> None:
        """Ends a run within a layer, unless somebody else waits for it."""
        self.jobs.stop(request)

    def inputs(self, result: Result, layer: int) -> LayerInputs:
        """What a layer saw, to take scores apart; runs the model once more."""
        if result.request is None:
            raise saa.TraceError("a recorded trace has no model to ask")
        model = self.model(result.request.model)
        with self.registry.run(result.request.model):
            return LayerInputs(model, result.trace, layer)

    def sweep(self, result: Result, report: Report) -> list[Point]:
        """The text of a result under settings from sparse to nearly dense."""
        request = _live(result)
        model = self.model(request.model)
        steps = tradeoff(model, request.text, policy=request.policy, dense=result.dense)
        found = list[Point]()
        report("sweep", 0.0)
        for point in self._in_turn(steps, request.model):
            found.append(point)
            report("sweep", len(found) / len(MASSES))
        return found

    def attempt(self, trial: GuardTrial, dense: saa.Trace, report: Report) -> GuardTrialResult:
        """Runs a text without a guard and with one, under a gate that may be damaged.

        A damaged gate is another model, made for this trial alone: it shares the weights of the loaded
        one, has gates of its own, and is gone when the trial is over.

        Args:
            dense: of the same text.
        """
        report("wait", 0.0)
        request = trial.request
        model = self.model(request.model)
        if trial.damage is not None:
            model = damage_gates(model, trial.damage)
        shown = request.policy.decided()
        policies = [replace(shown, guard=guard) for guard in (None, trial.guard)]
        with self._turn(request.model, report):
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
                repeats=TRIAL_REPEATS,
                warm_up=False,
                progress=lambda _what, done, total: report("time", 0.6 + 0.4 * done / total),
            )
        alike = tuple(agreement(dense, trace) for trace in (blind, guarded))
        return GuardTrialResult(trial, blind, guarded, alike, *timings)

    def timeline(self, result: Result, report: Report) -> tuple[Timeline, Timeline]:
        """Where the time of one pass of each side goes, for the text of a result."""
        request, done = _live(result), Countdown(2)

        def layers(at: int, of: int) -> None:
            done.at(at, of)
            report("time", done.share, left=done.left)

        model = self.model(request.model)
        with self._turn(request.model, report):
            ids = result.trace.token_ids.tolist()
            return timeline(model, ids, request.policy, progress=layers)

    def latency(
        self, name: str, policy: saa.Policy, lengths: tuple[int, ...], report: Report
    ) -> list[saa.Timing]:
        """Dense and SAA in turn at several lengths of a novel, on this machine."""
        model = self.model(name)
        report("wait", 0.0)
        with self._turn(name, report):
            return saa.measure(
                model,
                lengths,
                (None, policy.decided()),
                repeats=LATENCY_REPEATS,
                progress=lambda _what, done, total: report("time", done / total),
            )

    def effects(
        self, result: Result, layer: int, head: int | None, known: Collection[Effect]
    ) -> Iterator[Effect]:
        """What leaving out each block of a layer does, block by block; `known` ones are passed over."""
        request = _live(result)
        done = [(effect.queries, effect.keys) for effect in known]
        steps = effects(self.model(request.model), result.trace, layer, head, known=done)
        return self._in_turn(steps, request.model)

    def rare(
        self, name: str, policy: saa.Policy, quantity: str, texts: Sequence[Rare]
    ) -> Iterator[Degradation]:
        """What a policy costs on each of these texts, one after the other."""
        steps = one_by_one(texts, self.model(name), policy, quantity, self.original(name))
        return self._in_turn(steps, name)

    def windows(self, name: str, file: Path, length: int) -> ColumnTexts:
        """A plain text file in windows of so many tokens of a model, the first ones if there are many."""
        found = list(islice(texts_of(self.model(name), file, length=length), ROWS + 1))
        texts = tuple(found[:ROWS])
        return ColumnTexts(texts, len(texts), 0, len(found) > ROWS)

    def check_texts(self, name: str, texts: Sequence[str], cut: bool) -> CheckedTexts:
        """Texts as a model will run them; see :func:`saa_core.audit.texts.check_texts`."""
        return check_texts(self.model(name), texts, cut=cut)

    def audit(
        self, name: str, policy: saa.Policy, store: Store, corpus: str, texts: Iterable[str]
    ) -> Iterator[Done]:
        """Dense against a policy, text by text, into the store; others may run in between. What is stored
        already is not run again.

        Args:
            corpus: name of the audit, for people.
            texts: those that :meth:`check_texts` gave.
        """
        audit = Audit(
            self.model(name),
            policy,
            store,
            corpus,
            baseline=self.original(name),
            digests_of=self.registry.digests,
        )
        return self._in_turn(audit.over(texts, seconds=AUDIT_SECONDS), name)

    def spell(self, name: str, tokens: Sequence[int]) -> list[str]:
        """Tokens of a model as they are written."""
        tokenizer = self.model(name).tokenizer
        return [tokenizer.decode([token]) for token in tokens]

    def compare(
        self,
        sides: tuple[Side, Side],
        report: Report,
        known: MutableMapping[Side, saa.Trace],
    ) -> Compared:
        """Runs both sides and lays them over each other.

        Args:
            known: runs that need not be done again; those that are done are added.
        """
        report("wait", 0.0)
        for at, side in enumerate(sides):
            if side not in known:
                model = self._model_of(side)
                report("dense" if side.policy is None else "sparse", 0.05 + 0.4 * at)
                with self._turn(side.model, report):
                    known[side] = saa.run(model, side.text, side.policy)
        report("compare", 0.85)
        models = self._model_of(sides[0]), self._model_of(sides[1])
        compared = lay_together(sides, (known[sides[0]], known[sides[1]]), models)
        report("done", 1.0)
        return compared

    def _model_of(self, side: Side) -> saa.Model:
        return self.original(side.model) if side.policy is None else self.model(side.model)

    def _turn(self, name: str, report: Report) -> AbstractContextManager[None]:
        """A turn whose place in the queue is reported."""
        return self.registry.run(name, waiting=lambda place: report("wait", 0.0, place=place))

    def _in_turn(self, steps: Iterator[T], name: str) -> Iterator[T]:
        """Work of many steps, each under the lock: others may run in between."""
        while True:
            with self.registry.run(name):
                found = next(steps, None)
            if found is None:
                return
            yield found


def _further(one: Result, other: Result) -> bool:
    """Whether a result of the same request holds more than another."""
    steps = [(each.compared_at is None, -each.rounds_left) for each in (one, other)]
    return steps[0] > steps[1]


def _live(result: Result) -> Request:
    assert result.request is not None, "a recorded trace has no model to ask"
    return result.request


@functools.cache
def novel() -> str:
    """A long text that ships."""
    return (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
