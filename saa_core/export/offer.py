"""What a page may offer of an engine: a task's model exported once into the cache, and its time beside PyTorch's."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from saa_core.export.engine import Engine, open_engine
from saa_core.export.export import export
from saa_core.files import cache_dir
from saa_core.model import Model, fingerprint
from saa_core.run.classify import classify
from saa_core.timings import quartiles

PYTORCH, ONNXRUNTIME = "pytorch", "onnxruntime"


@dataclass(frozen=True)
class EngineTimes:
    """ms of one text with each engine, tokenizing included, one sample per round; rounds take turns.

    Args:
        samples_ms: by engine: PYTORCH, ONNXRUNTIME.
        tokens: of the text.
    """

    samples_ms: Mapping[str, tuple[float, ...]]
    tokens: int

    @property
    def fastest(self) -> str:
        """The engine with the lowest median."""
        return min(self.samples_ms, key=lambda name: quartiles(self.samples_ms[name])[1])


def engine_for(model: Model, *, int8: bool = False, threads: int | None = None) -> Engine:
    """The engine of a task's model; it is exported when nobody asked for it before, which takes a while.

    Raises:
        ModelError, PolicyError, SAAError: see :func:`saa_core.export.export.export`.
    """
    about = fingerprint(model)
    precision = "int8" if int8 else "float32"
    mark = f"{model.spec.task or model.spec.name}-{about.weights[:16]}-{about.gates[:16]}"
    folder = cache_dir() / "exported" / f"{mark}-{precision}"
    if not folder.exists():
        export(model, folder, int8)
    return open_engine(folder, threads=threads)


def time_engines(model: Model, engine: Engine, text: str, rounds: int = 5) -> EngineTimes:
    """One text with the task's default share, answered by PyTorch and by the engine in turns.

    Args:
        engine: of the same model, as :func:`engine_for` gives it.
        rounds: that count; one more warms up.

    Raises:
        TextError: the text is empty or too long.
    """
    sides: dict[str, Callable[[], object]] = {
        PYTORCH: lambda: list(classify(model, [text])),
        ONNXRUNTIME: partial(engine.classify, [text]),
    }
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[name]()
            samples[name].append(1000 * (time.perf_counter() - began))
    counted = {name: tuple(found[1:]) for name, found in samples.items()}
    return EngineTimes(counted, engine.lengths([text])[0])
