"""The client: the only place that runs models. It works in this process.

A page makes a request and gets a value; both are frozen (live/values.py). A client that talks to a
backend would have the same methods.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import saa_core as saa
from app.live.models import REGISTRY, ModelRegistry
from app.live.passes import StepReport, agreement, flops_share, lay_together, read
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
from saa_core.run.fallback import verdict_for
from saa_core.run.text import compare_and_fill, encode
from saa_core.run.timing import rounds
from saa_core.store import Store
from saa_core.types import StepProgress

REPEATS = 3
LATENCY_REPEATS = 5
AUDIT_SECONDS = 0.5
"""Time after which what an audit ran is stored: what a cancelled one loses at most."""
WARM_UP = {"short": 60, "long": 620}
"""Tokens of the texts that are run once before the first real one. Above 512 tokens the block
kernel runs, and its first run compiles."""

T = TypeVar("T")


class Client:
    """Runs requests one at a time, so that people do not spoil each other's latencies. A page that is
    left in the middle stops at the next report.

    Every method may raise an SAAError; the page makes a sentence of it.
    """

    def __init__(self, registry: ModelRegistry = REGISTRY) -> None:
        self.registry = registry

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
            for policy in (None, model.spec.policy):
                saa.run(model, novel()[: offsets[-1][1]], policy)
        self.registry.set_warm(name, step)

    def run(self, request: Request, report: StepReport, earlier: Result | None = None) -> Result:
        """Reads a text once dense and once with SAA, goes on writing from both and compares them; times
        are still to come.

        Dense is the original model, also where an adapter was merged into the one with SAA.

        Args:
            earlier: a result whose dense run is used again if it is of the same text and model.
        """
        report("wait", 0.0)
        model, original = self.model(request.model), self.original(request.model)
        same = earlier is not None and earlier.request is not None
        same = same and replace(earlier.request, policy=request.policy) == request
        encoded = encode(model, request.text)
        with self.registry.run(request.model):
            report("dense", 0.05)
            if same:
                dense, dense_words = earlier.dense, earlier.dense_words
            else:
                dense, dense_words = read(original, request.text, encoded, None, report, 0.4)
            report("sparse", 0.45)
            trace, written = read(model, request.text, encoded, request.policy, report, 0.8)
            report("compare", 0.85)
            dense, trace, comparison = compare_and_fill(dense, trace)
        report("done", 1.0)
        return Result(
            trace=trace,
            request=request,
            spec=model.spec,
            dense=dense,
            comparison=comparison,
            dense_words=dense_words,
            words=written,
            flops_share=flops_share(model, trace),
            rounds=REPEATS,
            verdict=verdict_for(model, request.policy, trace.keys),
        )

    def time(self, result: Result, report: StepReport) -> Iterator[Result]:
        """The result with the times of both sides, again after each round; they run in turns."""
        request = _live(result)
        model = self.model(request.model)
        report("wait", 0.0)
        steps = rounds(
            model,
            result.trace.token_ids.tolist(),
            (None, request.policy.decided()),  # the decision on the page, whatever gains nothing
            repeats=REPEATS,
            warm_up=False,  # the text has just run both ways
            progress=lambda _what, done, total: report("time", done / total),
        )
        for dense, sparse in self._in_turn(steps, request.model):
            trace = replace(result.trace, timing=(dense, sparse))
            yield replace(result, trace=trace, dense_timing=dense, timing=sparse)

    def inputs(self, result: Result, layer: int) -> LayerInputs:
        """What a layer saw, to take scores apart; runs the model once more."""
        if result.request is None:
            raise saa.TraceError("a recorded trace has no model to ask")
        model = self.model(result.request.model)
        with self.registry.run(result.request.model):
            return LayerInputs(model, result.trace, layer)

    def sweep(self, result: Result, report: StepReport) -> list[Point]:
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

    def attempt(self, trial: GuardTrial, dense: saa.Trace, report: StepReport) -> GuardTrialResult:
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
        with self.registry.run(request.model):
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
        alike = tuple(agreement(dense, trace) for trace in (blind, guarded))
        return GuardTrialResult(trial, blind, guarded, alike, *timings)

    def latency(
        self, name: str, policy: saa.Policy, lengths: tuple[int, ...], report: StepReport
    ) -> list[saa.Timing]:
        """Dense and SAA in turn at several lengths of a novel, on this machine."""
        model = self.model(name)
        report("wait", 0.0)
        with self.registry.run(name):
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
        report: StepReport,
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
                with self.registry.run(side.model):
                    known[side] = saa.run(model, side.text, side.policy)
        report("compare", 0.85)
        models = self._model_of(sides[0]), self._model_of(sides[1])
        compared = lay_together(sides, (known[sides[0]], known[sides[1]]), models)
        report("done", 1.0)
        return compared

    def _model_of(self, side: Side) -> saa.Model:
        return self.original(side.model) if side.policy is None else self.model(side.model)

    def _in_turn(self, steps: Iterator[T], name: str) -> Iterator[T]:
        """Work of many steps, each under the lock: others may run in between."""
        while True:
            with self.registry.run(name):
                found = next(steps, None)
            if found is None:
                return
            yield found


def _live(result: Result) -> Request:
    assert result.request is not None, "a recorded trace has no model to ask"
    return result.request


@functools.cache
def novel() -> str:
    """A long text that ships."""
    return (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
