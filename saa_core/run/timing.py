"""Dense against SAA on the clock: rounds interleaved in one process, raw samples kept.

What is timed is a whole forward pass of the model (prefill, without the language-model head), what
guard or margin have done again included, and inside it the attention of all layers with gate, rule
and mask building. Timed calls record nothing, so that a policy that falls back is timed as what it then
is: dense. Compiling and warming up happen before the first round and are reported apart.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from saa_core.data import fetch
from saa_core.errors import PolicyError
from saa_core.model import Model
from saa_core.native import compile_seconds
from saa_core.run.execute import Executed, execute
from saa_core.run.text import encode
from saa_core.trace.record import versions
from saa_core.types import Policy, Progress, Timing, quartiles

TimingProgress = Callable[[str, int, int], None]
TEXT = "examples/persuasion.txt"


@dataclass(frozen=True)
class TimedRun:
    """One pass on the clock.

    Args:
        seconds: wall time of the pass; recording it is no part of it.
        stages: seconds in attention by stage.
        kernel: that ran.
        peak_bytes: highest memory meanwhile, if it was looked at.
    """

    seconds: float
    stages: dict[str, float]
    kernel: str
    peak_bytes: int | None = None

    @staticmethod
    def of(found: Executed, seconds: float) -> "TimedRun":
        """What was executed with ``clock=True`` and took so many seconds, recording included."""
        stages = found.seconds
        recording = stages.pop("record", 0.0)
        return TimedRun(seconds - recording, stages, (found.rejected or found.call).kernel)


def measure(
    model: Model,
    lengths: Sequence[int] = (512, 2048),
    policies: Sequence[Policy | None] = (None, Policy()),
    *,
    text: str | None = None,
    repeats: int = 7,
    warm_up: bool = True,
    progress: TimingProgress | None = None,
) -> list[Timing]:
    """Times forward passes of each policy at each length.

    Args:
        lengths: in tokens; cut from ``text``, which is repeated where it is shorter.
        policies: None is dense attention as the model does it without SAA. One that may fall back does:
            ``policy.decided()`` is timed as it decides.
        text: an excerpt of a novel by default. ``lengths=()`` times the text as it is.
        repeats: rounds; in each round every policy runs once, in turn.
        warm_up: one more round before the first, which is not timed; False is for a text that has
            just run under the same policies. Density and compile time are found out in it.
        progress: called with (what, done, total).

    Returns:
        one Timing per length and policy, in that order.

    Raises:
        PolicyError: a length or the number of repeats cannot be used.
        TextError: the text cannot be used.
    """
    if repeats < 1:
        raise PolicyError(f"repeats={repeats!r} must be a whole number >= 1")
    source = (fetch.assets() / TEXT).read_text(encoding="utf-8") if text is None else text
    if text is not None and not lengths:
        ids = encode(model, source)["input_ids"]
        lengths = (len(ids),)
    else:
        ids = model.tokenize(source)
    for length in lengths:
        if not 1 <= length <= model.max_length:
            raise PolicyError(
                f"lengths holds {length!r}; {model.spec.name} takes 1 to {model.max_length} tokens"
            )
    found = list[Timing]()
    passes = len(policies) * (repeats + warm_up)
    for index, length in enumerate(lengths):
        cut = (ids * (length // len(ids) + 1))[:length]

        def report(what: str, done: int, total: int, before: int = index * passes) -> None:
            if progress:
                progress(what, before + done, len(lengths) * total)

        *_, last = rounds(model, cut, policies, repeats=repeats, warm_up=warm_up, progress=report)
        found += last
    return found


def rounds(
    model: Model,
    ids: Sequence[int],
    policies: Sequence[Policy | None],
    *,
    repeats: int = 7,
    warm_up: bool = True,
    batch: int = 1,
    progress: TimingProgress | None = None,
) -> Iterator[list[Timing]]:
    """Times forward passes over token ids, one round after the other.

    Args:
        ids: of one text, special tokens included.
        batch: so many times this text at once.
        policies, repeats, warm_up, progress: see :func:`measure`.

    Yields:
        after each round one Timing per policy, of all rounds so far.
    """
    tracks = [_Track(policy, batch) for policy in policies]
    turns = range(0 if warm_up else 1, repeats + 1)
    done = 0
    for turn in turns:
        # Every other round runs backwards, so that no side always comes first.
        for track in tracks if turn % 2 else tracks[::-1]:
            track.warm_up(model, ids) if turn == 0 else track.round(model, ids)
            done += 1
            if progress:
                progress(f"{len(ids)} tokens, {track.name}", done, len(tracks) * len(turns))
        if turn:
            yield [track.timing(model, len(ids)) for track in tracks]


def clock_pass(
    model: Model,
    ids: Sequence[int],
    policy: Policy | None,
    *,
    batch: int = 1,
    layers: Progress | None = None,
) -> TimedRun:
    """One pass that records nothing.

    Args:
        batch: so many times this text at once.
        layers: called with (layers that are done, layers) as each begins; what it raises ends the pass.
    """
    _reset_peak(model.device)
    started = time.perf_counter()
    found = execute(model, [ids] * batch, policy, clock=True, fall_back=True, progress=layers)
    _synchronize(model.device)
    run = TimedRun.of(found, time.perf_counter() - started)
    return replace(run, peak_bytes=_peak(model.device))


def timing_of(model: Model, policy: Policy | None, length: int, runs: Sequence[TimedRun]) -> Timing:
    """Passes of one text under one policy as times; they were interleaved with the other side's."""
    track = _Track(policy)
    for run in runs:
        track.add(run)
    return track.timing(model, length)


def crossover(timings: Sequence[Timing]) -> int | None:
    """Shortest measured length from which the whole forward pass is faster, there and at every
    longer one; None if it is not at the longest.

    Args:
        timings: dense and SAA in turn, lengths ascending, as :func:`measure` gives them.
    """
    found = None
    for dense, sparse in zip(timings[-2::-2], timings[::-2], strict=True):
        if sparse.ratio(dense)[0] <= 1:
            break
        found = dense.length
    return found


@dataclass
class _Track:
    """One policy's samples at one length."""

    policy: Policy | None
    batch: int = 1
    samples: list[float] = field(default_factory=list)
    attention: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    kernel: str = "dense"
    compile_ms: float = 0.0
    peak: int | None = None
    density: float | None = None

    @property
    def name(self) -> str:
        return "dense" if self.policy is None else f"saa {self.policy}"

    def warm_up(self, model: Model, ids: Sequence[int]) -> None:
        compiled = len(compile_seconds)
        plain = None
        if self.batch > 1 or (self.policy is not None and self.policy.fallback == "auto"):
            plain = execute(model, [ids] * self.batch, self.policy, fall_back=True)
        if plain is not None and plain.dense_instead:
            self.density = 1.0
            return
        found = execute(model, [ids], self.policy, "summary")
        _synchronize(model.device)
        self.compile_ms = 1000 * sum(compile_seconds[compiled:])
        first = found.call if found.rejected is None else found.rejected
        self.kernel = first.kernel
        self.density = float(torch.stack([r.density for r in first.layers.values()]).mean())

    def round(self, model: Model, ids: Sequence[int]) -> None:
        self.add(clock_pass(model, ids, self.policy, batch=self.batch))

    def add(self, run: TimedRun) -> None:
        self.samples.append(1000 * run.seconds)
        self.kernel = run.kernel
        self.attention.append(1000 * sum(run.stages.values()))
        for stage, seconds in run.stages.items():
            self.stages.setdefault(stage, []).append(1000 * seconds)
        self.peak = max(filter(None, (run.peak_bytes, self.peak)), default=None)

    def timing(self, model: Model, length: int) -> Timing:
        return Timing(
            name=self.name,
            length=length,
            samples_ms=tuple(self.samples),
            attention_ms=tuple(self.attention),
            stages_ms={stage: quartiles(values)[1] for stage, values in self.stages.items()},
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            kernel=self.kernel,
            compile_ms=self.compile_ms,
            peak_bytes=self.peak,
            versions=versions(),
            density=self.density,
        )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark
    except OSError:
        return


def _peak(device: torch.device) -> int | None:
    """Highest memory since the reset in bytes: of the device, or of the process on Linux."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
