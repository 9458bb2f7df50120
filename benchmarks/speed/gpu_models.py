"""Parts of benchmarks/speed/gpu.py on whole models: prefill, larger shapes, classification, training."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import saa_core as saa
from benchmarks.speed.gpu_shapes import (
    LLAMA,
    QWEN,
    SMOLLM2,
    Setting,
    Shape,
    median_ratio,
    random_model,
    timed,
)
from saa_core.data import fetch
from saa_core.errors import SAAError
from saa_core.run.captured import Captured
from saa_core.run.classify import answers, task_of
from saa_core.train.batches import pad_batch
from saa_core.train.masked import mean_states

BLOCK = (128, 64)
LENGTHS = (1024, 4096, 8192, 16384, 32768, 65536, 131072)
LARGE_LENGTHS = (8192, 32768, 131072)
DENSITY, LARGE_DENSITY = 0.25, 0.2
TRIES = 5
BATCHES = (1, 8, 32, 256, 1024)
SHARE = 0.6
"""Of the token work, in the part understanding."""
STEPS = 12
Side = Callable[[], object]


def prefill(setting: Setting) -> list[dict[str, Any]]:
    """Whole prefill of SmolLM2's shape, both sides captured, at a stated density: times, not quality."""
    return _prefill(SMOLLM2, LENGTHS, DENSITY, setting)


def shapes(setting: Setting) -> list[dict[str, Any]]:
    """The same of larger shapes; a length that does not fit into the memory is named."""
    return [
        row
        for shape in (LLAMA, QWEN)
        for row in _prefill(shape, LARGE_LENGTHS, LARGE_DENSITY, setting)
    ]


def default(setting: Setting) -> list[dict[str, Any]]:
    """The real SmolLM2 under its default in blocks of a GPU's size, fallback off and on."""
    model = _loaded("smollm2", device=str(setting.device))
    if isinstance(model, str):
        return [{"skipped": model}]
    rows = []
    never = replace(model.spec.policy, block=BLOCK, granularity="block", fallback="never")
    auto = replace(model.spec.policy, block=BLOCK, fallback="auto")
    for length in [each for each in LENGTHS if each <= model.max_length]:
        ids = model.tokenize((fetch.assets() / "examples/persuasion.txt").read_text("utf-8"))
        ids = (ids * (length // len(ids) + 1))[:length]
        dense, sparse = (partial(Captured(model, p, exact=True), ids) for p in (None, never))
        choosing = partial(_forward, model, auto, ids)
        samples = _turns(
            {"dense": dense, "saa": sparse, "dense, eager": partial(_forward, model, None, ids)}
            | {"saa, fallback, eager": choosing},
            setting,
        )
        call = saa.Call(never, "summary")
        _forward(model, call, ids)
        rows.append(
            {
                "length": length,
                "policy": str(never),
                "density": _density(call),
                "ratio": median_ratio(samples["dense"], samples["saa"]),
                "ratio_with_fallback": median_ratio(
                    samples["dense, eager"], samples["saa, fallback, eager"]
                ),
                "samples_ms": samples,
            }
        )
    return rows


def understanding(setting: Setting) -> list[dict[str, Any]]:
    """Classification in bfloat16 by batch: dense eager, compiled and packed, and SAA with tokens dropped."""
    rows: list[dict[str, Any]] = []
    for task in sorted(path.name for path in (fetch.assets() / "tasks" / "minilm").iterdir()):
        given = {"task": task, "device": str(setting.device), "dtype": torch.bfloat16}
        sparse, dense = (_loaded("minilm", side=side, **given) for side in ("sparse", "dense"))
        if isinstance(sparse, str) or isinstance(dense, str):
            rows.append({"task": task, "skipped": sparse if isinstance(sparse, str) else dense})
            continue
        compiled = torch.compile(dense.hf, dynamic=True)
        policy = saa.Policy(mass=1.0, tokens=SHARE, fallback="never")
        for count in BATCHES:
            ids = _texts(count)
            samples = _turns(
                {
                    "dense, padded": partial(_padded, dense, dense.hf, ids),
                    "dense, padded, compiled": partial(_padded, dense, compiled, ids),
                    "dense, packed": partial(answers, dense, ids),
                    "saa": partial(answers, sparse, ids, policy=policy),
                },
                setting,
            )
            fastest = min(
                (name for name in samples if name != "saa"),
                key=lambda name: sorted(samples[name])[len(samples[name]) // 2],
            )
            rows.append(
                {
                    "task": task,
                    "batch": count,
                    "tokens": SHARE,
                    "best_dense": fastest,
                    "ratio": median_ratio(samples[fastest], samples["saa"]),
                    "samples_ms": samples,
                }
            )
    return rows


def train(setting: Setting) -> list[dict[str, Any]]:
    """Tokens per second of the two trainings in bfloat16, activations held and computed again."""
    rows: list[dict[str, Any]] = []
    for name in ("train", "joint", "joint, recompute"):
        model = _loaded("smollm2", device=str(setting.device), dtype=torch.bfloat16)
        if isinstance(model, str):
            return [{"skipped": model}]
        text = (fetch.assets() / "examples/persuasion.txt").read_text("utf-8")
        torch.cuda.reset_peak_memory_stats(setting.device)
        common = {"steps": STEPS, "lengths": (2048,)}
        steps: list[Any]
        if name == "train":
            steps = list(saa.train_gates(model, {"novel": text}, saa.TrainConfig(**common)))
        else:
            config = saa.JointConfig(**common, recompute="recompute" in name)
            steps = list(saa.train_joint(model, {"novel": text}, config))
        half = STEPS // 2  # the first ones compile
        spent = steps[-1].seconds - steps[half - 1].seconds
        rows.append(
            {
                "training": name,
                "tokens_per_s": sum(step.length for step in steps[half:]) / spent,
                "peak_bytes": torch.cuda.max_memory_allocated(setting.device),
            }
        )
    return rows


def _prefill(
    shape: Shape, lengths: Sequence[int], density: float, setting: Setting
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    about = {"shape": shape.name, "block": list(BLOCK), "dtype": "bfloat16"}
    model = random_model(shape, max(lengths), setting.device, torch.bfloat16, BLOCK)
    for length in lengths:
        ids = [index * 7 % 1000 + 3 for index in range(length)]
        try:
            policy, given = _policy_for(model, ids, density)
            sides = {"dense": None, "saa": policy}
            graphs = {name: Captured(model, each, exact=True) for name, each in sides.items()}
            samples = _turns({n: partial(graph, ids) for n, graph in graphs.items()}, setting)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            rows.append({**about, "length": length, "skipped": "does not fit into the memory"})
            continue
        ratio = median_ratio(samples["dense"], samples["saa"])
        rows.append(
            {**about, "length": length, "density": given, "ratio": ratio, "samples_ms": samples}
        )
        del graphs
    del model
    torch.cuda.empty_cache()
    return rows


def _policy_for(model: saa.Model, ids: Sequence[int], density: float) -> tuple[saa.Policy, float]:
    """The policy whose density is nearest to the one asked for: fresh gates predict nothing, they only cost."""
    low, high = 0.0, 1.0
    found = model.spec.policy, 1.0
    for _ in range(TRIES):
        mass = (low + high) / 2
        policy = replace(model.spec.policy, mass=mass)
        call = saa.Call(policy, "summary")
        _forward(model, call, ids)
        given = _density(call)
        if abs(given - density) < abs(found[1] - density):
            found = policy, given
        low, high = (mass, high) if given < density else (low, mass)
    return found


def _density(call: saa.Call) -> float:
    return float(torch.stack([each.density for each in call.layers.values()]).mean())


def _forward(model: saa.Model, how: saa.Call | saa.Policy | None, ids: Sequence[int]) -> None:
    call = how if isinstance(how, saa.Call) else saa.Call(how)
    tokens = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        model.hf.base_model(tokens, saa=call, use_cache=False)


def _padded(dense: saa.Model, hf: Any, ids: list[list[int]]) -> None:
    tokens, mask = pad_batch(ids, dense)
    with torch.inference_mode():
        states = hf(tokens, attention_mask=mask.long()).last_hidden_state
        task_of(dense).probabilities(mean_states(states, mask))


def _texts(count: int) -> list[list[int]]:
    """Random texts of 16 to 128 tokens between the tokens that frame a text."""
    draw = random.Random(0)
    return [
        [101, *(draw.randrange(1000, 20000) for _ in range(draw.randrange(14, 127))), 102]
        for _ in range(count)
    ]


def _turns(sides: dict[str, Side], setting: Setting) -> dict[str, list[float]]:
    """Raw samples in ms; the sides take turns, after two rounds that are not counted."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(setting.repeats + 2):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            torch.cuda.synchronize(setting.device)
            spent = timed(sides[name], setting.device)
            if turn >= 2:
                found[name].append(spent)
    return found


def _loaded(name: str, **given: Any) -> saa.Model | str:
    """A real model, or why there is none here: nothing is fetched."""
    model: saa.Model | None = None
    reason = f"{name} was not fetched (saa fetch {name})"
    if fetch.present(fetch.model_dir(name)):
        with suppress(SAAError):
            model = saa.load(name, **given)
    return reason if model is None else model
