"""From a request to its result, step by step: first what two passes say, then what takes longer.

Knows no page: a step's place in the queue and its progress go to the job (jobs.py).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import saa_core as saa
from app.live.jobs import Job
from app.live.models import ModelRegistry
from app.live.passes import Countdown, flops_share, positions, read
from app.live.results import SharedResults
from app.live.values import Request, Result
from saa_core.run.fallback import verdict_for
from saa_core.run.text import compare_and_fill, compare_at, encode
from saa_core.run.timing import TimedRun, clock_pass, timing_of

REPEATS = 3
"""Rounds of the clock after the recorded passes, of a text that is read quickly."""
ROUND_SECONDS = 4.0
"""About how long these rounds may take together; of a text whose one round takes longer there is one, of any
other there are two at least."""


class Answers:
    """What a job runs.

    Args:
        models: the model of a name, and the one that it is compared with.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        shared: SharedResults,
        models: Callable[[str], tuple[saa.Model, saa.Model]],
    ) -> None:
        self.registry, self.shared, self._models = registry, shared, models

    def all(self, job: Job[Result], request: Request, earlier: Result | None) -> Iterator[Result]:
        """A text's first figures, and then the rest."""
        result = self._first(job, request, earlier)
        self.shared.put(result)
        yield result
        yield from self.rest(job, result)

    def _first(self, job: Job[Result], request: Request, earlier: Result | None) -> Result:
        model, original = self._models(request.model)
        encoded = encode(model, request.text)
        if not _same_text(earlier, request):
            earlier = self.shared.of_text(request)
        known = earlier if earlier is not None and earlier.runs else None
        done = Countdown(1 if known else 2)

        def layers(step: str, at: int, of: int) -> None:
            done.at(at, of)
            job.report(step, 0.05 + 0.85 * done.share, left=done.left)

        with self.registry.run(
            request.model,
            visitor=job.visitor,
            urgent=True,
            waiting=lambda place: job.report("wait", 0.0, place=place),
        ):
            if known is not None and known.dense is not None:
                dense, dense_words, clocked = known.dense, known.dense_words, known.runs[0][0]
            else:
                dense, dense_words, clocked = read(
                    original, request.text, encoded, None, partial(layers, "dense")
                )
            trace, written, run = read(
                model, request.text, encoded, request.policy, partial(layers, "sparse")
            )
            job.report("compare", 0.95)
            places = positions(trace.keys) if trace.lm_head is not None else None
            if places is None:
                dense, trace, comparison = compare_and_fill(dense, trace)
            else:
                comparison = compare_at(dense, trace, places)
        found = Result(
            trace=trace,
            request=request,
            spec=model.spec,
            dense=dense,
            comparison=comparison,
            dense_words=dense_words,
            words=written,
            flops_share=flops_share(model, trace),
            rounds=repeats_for(clocked.seconds + run.seconds),
            verdict=verdict_for(model, request.policy, trace.keys),
            compared_at=places,
        )
        return with_round(found, (clocked, run), model)

    def rest(self, job: Job[Result], result: Result) -> Iterator[Result]:
        """What is still to come of a result, each step in a turn of its own, after everybody's first figures."""
        request = result.request
        assert request is not None
        model, _ = self._models(request.model)
        turn = partial(
            self.registry.run,
            request.model,
            visitor=job.visitor,
            waiting=lambda place: job.report("wait", 0.0, place=place),
        )
        if result.compared_at is not None and result.dense is not None:
            with turn():
                dense, trace, comparison = compare_and_fill(
                    result.dense,
                    result.trace,
                    lambda done, total: job.report("compare", done / total),
                )
            result = replace(
                result, dense=dense, trace=trace, comparison=comparison, compared_at=None
            )
            self.shared.put(result)
            yield result
        ids = result.trace.token_ids.tolist()
        while result.rounds_left > 0:
            job.until_watched()
            with contextlib.suppress(OvertakenError), turn():
                both = self._round(job, result, model, ids)
                result = with_round(result, both, model)
                self.shared.put(result)
                yield result

    def _round(
        self, job: Job[Result], result: Result, model: saa.Model, ids: list[int]
    ) -> tuple[TimedRun, TimedRun]:
        """One more pass of each side on the clock. Every other round runs backwards, so that no side always
        comes first. Raises OvertakenError where somebody has come to wait for first figures."""
        assert result.request is not None
        done = Countdown(2 * result.rounds_left)

        def layers(at: int, of: int) -> None:
            if self.registry.turns.urgent_waiting():
                raise OvertakenError
            done.at(at, of)
            job.report("time", done.share, left=done.left)

        # The decision on the page, whatever gains nothing.
        sides = [None, result.request.policy.decided()]
        order = (0, 1) if len(result.runs) % 2 == 0 else (1, 0)
        runs = {side: clock_pass(model, ids, sides[side], layers=layers) for side in order}
        return runs[0], runs[1]


class OvertakenError(Exception):
    """A round of the clock gave way to somebody's first figures; it is run again."""


def with_round(result: Result, both: tuple[TimedRun, TimedRun], model: saa.Model) -> Result:
    """A result with one more round of its times. The recorded passes run other code, such as the guard's and the
    masks of whole maps, and may be the first of their kind: their times stand only until there is a round of the
    clock.

    Args:
        both: a pass of (dense, SAA).
    """
    assert result.request is not None
    runs, length = (*result.runs, both), result.trace.keys
    policies = None, result.request.policy.decided()
    dense, sparse = (
        timing_of(model, policy, length, [run[side] for run in runs[1:] or runs])
        for side, policy in enumerate(policies)
    )
    trace = replace(result.trace, timing=(dense, sparse))
    return replace(result, trace=trace, dense_timing=dense, timing=sparse, runs=runs)


def repeats_for(seconds: float) -> int:
    """Rounds of the clock where one takes about so many seconds."""
    if seconds >= ROUND_SECONDS:
        return 1
    return max(2, min(REPEATS, int(ROUND_SECONDS / max(seconds, 1e-9))))


def _same_text(earlier: Result | None, request: Request) -> bool:
    if earlier is None or earlier.request is None or not earlier.runs:
        return False
    return replace(earlier.request, policy=request.policy) == request
