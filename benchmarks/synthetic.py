"""Traces as a run would make them, without a model: for tests and timings of the store."""

import numpy as np

from saa_core.trace.maps import InMemory, pack
from saa_core.trace.recorded import Execution, ModelInfo
from saa_core.trace.trace import Trace
from saa_core.types import LOCAL, SINK, Policy


def synthetic(
    seed: int,
    *,
    tokens: int = 12,
    layers: int = 6,
    heads: int = 4,
    policy: Policy | None = Policy(mass=0.95),  # noqa: B008, frozen
    label: str | None = None,
    density: float = 0.4,
    text: str | None = None,
) -> Trace:
    """A causal run, decided pair by pair, with random scores.

    Args:
        label: "positive" or "negative"; None is a model without a task.
        density: about how many of the pairs a head keeps.
    """
    draw = np.random.default_rng(seed)
    last = np.arange(tokens, dtype=np.int32)[None]
    allowed = np.tril(np.ones((tokens, tokens), bool))
    forced = np.where(np.eye(tokens, dtype=bool), LOCAL, 0).astype(np.uint8)
    forced[:, 0] = SINK
    packed, kept_share = {}, np.ones((layers, heads), np.float32)
    if policy is not None:
        for layer in range(layers):
            score = draw.random((heads, tokens, tokens), np.float32)
            keep = ((score >= 1 - density) | (forced > 0)) & allowed
            kept_share[layer] = keep.sum((1, 2)) / allowed.sum()
            packed[layer] = pack(keep, score, np.full((heads, tokens), 1 - density))
    probs = None if label is None else np.array([0.2, 0.8])
    words = tuple(f"word{at}" for at in range(tokens))
    return Trace(
        text=" ".join(words) + f" {seed}" if text is None else text,
        tokens=words,
        offsets=tuple((7 * at, 7 * at + 6) for at in range(tokens)),
        token_ids=draw.integers(0, 1000, tokens),
        model=ModelInfo("synthetic", "llama", "synthetic", trained=True),
        policy=policy,
        execution=Execution("reference", "synthetic", "cpu", "float32", 1),
        versions={"python": "3"},
        block=(1, 1),
        density=kept_share,
        predicted_mass=np.ones((layers, heads), np.float32),
        retained_mass=np.ones((layers, heads), np.float32),
        attention_received=draw.random((layers, heads, tokens), np.float32),
        first=np.zeros_like(last),
        last=last,
        forced=(np.zeros((1, 1, 1, 1), np.uint8) if policy is None else forced[None, None]),
        layer_kind=np.zeros(layers, np.int32),
        targets=np.ones(layers, np.float32),
        labels=None if label is None else ("negative", "positive"),
        label_probs=probs if label != "negative" or probs is None else probs[::-1].copy(),
        layers=InMemory(packed) if packed else None,
    )
