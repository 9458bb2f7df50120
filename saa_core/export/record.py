"""What an engine did with one text as a :class:`saa_core.Trace`, a summary. Needs no PyTorch.

Shapes: L layers, H heads, N tokens.
"""

import importlib.metadata
import os
import sys
from typing import Any

import numpy as np

from saa_core.export.manifest import Manifest
from saa_core.export.session import Answered
from saa_core.trace.recorded import Execution, ModelInfo
from saa_core.trace.trace import Trace
from saa_core.types import Guard, Policy

ENGINE = "onnxruntime"
ASKED = "the two most probable labels were too close together"


def trace_of(
    about: Manifest,
    text: str,
    encoded: Any,
    answered: Answered,
    share: float,
    margin: float,
    spent: float,
    threads: int | None,
) -> Trace:
    """The record of the one text of a batch.

    Args:
        encoded: what the tokenizer made of the text.
        spent: operations of the model with the gates, as a share of dense's.
    """
    layers, tokens = len(about.weights), len(encoded.ids)
    kept = answered.layers[0, :tokens] > np.arange(layers)[:, None]
    guard = Guard(missed_mass=None, margin=margin) if margin else None
    policy: Policy | None = Policy(mass=1.0, tokens=share, guard=guard, tail=0)
    events: tuple[dict[str, Any], ...] = ()
    asked = bool(answered.asked[0])
    if asked:
        best = np.sort(answered.own[0])
        event = {"suspected": "margin", "measured": float(best[-1] - best[-2]), "done": "dense"}
        events = ({**event, "limit": margin, "added": 1.0, "spent": spent},)
        kept, policy = np.ones_like(kept), None
    density = (kept.sum(1) / tokens) ** 2
    shape = (layers, about.heads)
    return Trace(
        text=text,
        tokens=tuple(encoded.tokens),
        offsets=tuple(encoded.offsets),
        token_ids=np.array(encoded.ids, np.int64),
        model=ModelInfo(about.title, about.family, about.gate, True),
        policy=policy,
        execution=Execution(
            kernel=ENGINE,
            reason=ASKED if asked else "the model was exported",
            device="cpu",
            dtype="float32" if asked else about.precision,
            threads=threads or os.cpu_count() or 1,
        ),
        versions=versions(),
        block=(1, 1),
        density=np.broadcast_to(density[:, None], shape).astype(np.float32),
        predicted_mass=np.ones(shape, np.float32),
        retained_mass=None,
        attention_received=None,
        first=np.zeros((1, tokens), np.int32),
        last=np.full((1, tokens), tokens - 1, np.int32),
        forced=np.zeros((1, 1, 1, 1), np.uint8),
        layer_kind=np.zeros(layers, np.int32),
        targets=np.ones(layers, np.float32),
        kept_tokens=kept,
        labels=about.labels,
        label_probs=answered.probabilities[0],
        events=events,
    )


def versions() -> dict[str, str]:
    """Versions of what a run by the engine depends on; saa-core need not be installed."""
    found = {"python": sys.version.split()[0]}
    for package in ("saa-core", "onnxruntime", "tokenizers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found | {"cores": str(os.cpu_count())}
