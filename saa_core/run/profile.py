"""Measures dense and SAA by length once, so that a default knows where it gains nothing.

    save_profiles(measure_profile(model))        # in the cache folder; the next process reads it

The sides are interleaved (:mod:`saa_core.run.timing`), and nothing falls back while it is measured.
"""

import time
from collections.abc import Sequence

import torch

from saa_core.attention.profiles import Kind, Profile, Times, this_machine
from saa_core.data import fetch
from saa_core.errors import PolicyError
from saa_core.model import Model
from saa_core.run.fallback import dtype_name
from saa_core.run.timing import TEXT, TimingProgress, rounds
from saa_core.trace.record import versions

LENGTHS = (16, 32, 64, 128, 256, 512, 640, 800, 1024, 1536, 2048, 4096, 8192)
SHORT, SHORT_ROUNDS, ROUNDS = 256, 31, 9
"""Texts up to so many tokens take more rounds: theirs are short and noisy."""
BATCHES = (1, 32)
"""Texts at a time of a task that drops tokens."""


def measure_profile(
    model: Model,
    lengths: Sequence[int] | None = None,
    *,
    repeats: int | None = None,
    command: str = "",
    progress: TimingProgress | None = None,
) -> list[Profile]:
    """Times a model's default policy against dense, length by length.

    Args:
        lengths: in tokens; those of LENGTHS that the model takes by default.
        repeats: rounds; more for short texts by default.
        command: stored with what was measured.
        progress: called with (what, done, total).

    Returns:
        one profile; of a task whose default drops tokens one per number of BATCHES.

    Raises:
        PolicyError: a length or the number of repeats cannot be used.
    """
    policy = model.spec.policy.decided()
    if policy.fallback != "never":
        raise PolicyError(
            f"fallback={policy.fallback!r}: the model's default would be timed as dense; store one with "
            "'auto'"
        )
    by_tokens = policy.tokens is not None and policy.tokens < 1 and model.task is not None
    most = model.max_length if model.task is None else min(model.max_length, model.task.longest)
    if lengths is None:
        lengths = [length for length in LENGTHS if length <= most]
    if not lengths or not all(2 <= length <= model.max_length for length in lengths):
        raise PolicyError(
            f"lengths={list(lengths)}: {model.spec.name} takes 2 to {model.max_length} tokens"
        )
    if repeats is not None and repeats < 1:
        raise PolicyError(f"repeats={repeats!r} must be a whole number >= 1")
    ids = model.tokenize((fetch.assets() / TEXT).read_text(encoding="utf-8"))
    batches = BATCHES if by_tokens else (1,)
    total = done = 0
    turns = {length: repeats or (SHORT_ROUNDS if length <= SHORT else ROUNDS) for length in lengths}
    total = 2 * len(batches) * sum(turns[length] + 1 for length in lengths)
    found = []
    for batch in batches:
        times = []
        for length in sorted(lengths):
            cut = model.frame((ids * (length // len(ids) + 1))[:length])

            def report(what: str, _done: int, _total: int) -> None:
                nonlocal done
                done += 1
                if progress:
                    progress(what, done, total)

            sides = (None, policy)
            *_, last = rounds(
                model, cut, sides, repeats=turns[length], batch=batch, progress=report
            )
            dense, sparse = last
            times.append(Times(length, dense.samples_ms, sparse.samples_ms))
        kind: Kind = "tokens" if by_tokens else "pairs"
        found.append(
            Profile(
                machine=this_machine(model.device, torch.get_num_threads()),
                model=model.spec.title,
                gate=model.spec.title if by_tokens else model.gates[0].id,
                shape=model.gates[0].shape,
                dtype=dtype_name(model),
                policy=str(policy),
                times=tuple(times),
                block=policy.block,
                kind=kind,
                batch=batch,
                command=command,
                day=time.strftime("%Y-%m-%d", time.gmtime()),
                versions=versions(),
            )
        )
    return found
