"""The record of one layer of a call.

The true attention mass (mass.py) is part of a full record, and never of timed calls.

Shapes: B batch, H query heads, G key/value heads, Q, K positions, M, S query and key blocks.
"""

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saa_core.errors import TraceError
from saa_core.exact import PLAIN, Softmax
from saa_core.gates.reliability import MassCalibrator
from saa_core.pairs import Allowed, Decision
from saa_core.trace.maps import Array, InMemory, pack
from saa_core.trace.mass import drawn_mass, drawn_queries, true_mass
from saa_core.trace.recorded import Execution, ModelInfo
from saa_core.trace.trace import Trace
from saa_core.types import Policy


@dataclass(frozen=True)
class LayerRecord:
    """One layer of one recorded call.

    Args:
        density: kept / allowed pairs, [B, H].
        predicted_mass: the gate's estimate of the mass that is kept, mean over queries, [B, H].
        calibrated_mass: the same corrected by the calibration of the gate, mean over queries, [B, H];
            None where the gate has none.
        retained_mass: the share of the true softmax that is kept, mean over queries, [B, H];
            None in a summary.
        retained_rows: the same query by query, [B, H, Q]; of drawn queries [B, H, R].
        mass_queries: the queries of which the true attention was computed, int64 [R]; None: of all.
        attention_received: share of attention that each token receives, mean over the queries that may see
            it, [B, H, K]; None in a summary.
        decision: None for a dense call or in a summary.
        kept_tokens: tokens that the layer computed, bool [B, K]; None where none can be dropped.
        token_score: log-odds that a token is still needed, by the gate in front of the layer,
            [B, K]; NaN where it was not asked.
    """

    density: Tensor
    predicted_mass: Tensor
    retained_mass: Tensor | None
    attention_received: Tensor | None
    decision: Decision | None
    allowed: Allowed
    kept_tokens: Tensor | None = None
    token_score: Tensor | None = None
    retained_rows: Tensor | None = None
    calibrated_mass: Tensor | None = None
    mass_queries: Tensor | None = None


@torch.no_grad()
def record_layer(
    q_BHQD: Tensor,
    k_BGKD: Tensor,
    decision: Decision | None,
    allowed: Allowed,
    scale: float,
    *,
    full: bool,
    kept_tokens: Tensor | None = None,
    token_score: Tensor | None = None,
    mass_map: MassCalibrator | None = None,
    softmax: Softmax = PLAIN,
    mass_rows: int | None = None,
) -> LayerRecord:
    """Figures of one layer, and with ``full`` the decision itself and the true attention mass.

    Args:
        mass_rows: queries of which the true attention is computed where there are more; None: of all.
        kept_tokens, token_score: see :class:`LayerRecord`. The retained mass is the mean over the queries
            that are computed.
    """
    B, H = q_BHQD.shape[:2]
    ones = torch.ones(B, H)
    calibrated = None
    if decision is not None and mass_map is not None:
        calibrated = decision.row_mean(mass_map(decision.predicted_rows)).cpu()
    retained = rows = received = drawn = None
    if full and mass_rows is not None and kept_tokens is None:
        drawn = drawn_queries(q_BHQD.shape[2], mass_rows)
    if drawn is not None:
        rows, seen, received = drawn_mass(q_BHQD, k_BGKD, decision, allowed, scale, drawn, softmax)
        retained = rows.sum(2) / seen.sum(-1).clamp(min=1)
    elif full:
        asked = allowed
        if kept_tokens is not None:
            pairs = kept_tokens[:, None, :, None] & allowed.pairs
            asked = Allowed(allowed.queries, allowed.keys, False, allowed.device, pairs)
        rows, received = true_mass(q_BHQD, k_BGKD, decision, asked, scale, softmax)
        retained = rows.sum(2) / asked.pairs.any(-1).sum(-1).clamp(min=1).cpu()
    return LayerRecord(
        density=ones if decision is None else decision.density.cpu(),
        predicted_mass=ones if decision is None else decision.predicted_mass.cpu(),
        retained_mass=retained,
        attention_received=received,
        decision=decision if full else None,
        allowed=allowed,
        kept_tokens=kept_tokens,
        token_score=token_score,
        retained_rows=rows,
        calibrated_mass=calibrated,
        mass_queries=drawn,
    )


def build_trace(
    layers: Mapping[int, LayerRecord],
    policy: Policy | None,
    kernel: str,
    reason: str,
    item: int,
    **known: Any,
) -> Trace:
    """The trace of one batch item; ``known`` is what the call itself cannot know, such as the text.

    Raises:
        TraceError: nothing was recorded, or the item does not exist.
    """
    if not layers:
        raise TraceError("call has nothing recorded; make it with record='summary' or 'full'")
    records = [layers[index] for index in sorted(layers)]
    B = records[0].density.shape[0]
    if not 0 <= item < B:
        raise TraceError(f"item={item!r} does not exist; choose 0 to {B - 1}")
    decisions = [record.decision for record in records]
    packed = {
        index: pack(
            decision.keep[item].cpu().numpy(),
            decision.score[item].cpu().numpy(),
            decision.threshold[item].cpu().numpy(),
        )
        for index, decision in enumerate(decisions)
        if decision is not None
    }
    first, last, forced, plan = _plans(records, item)
    allowed = records[0].allowed
    full, drawn = records[0].retained_mass is not None, records[0].mass_queries
    defaults: dict[str, Any] = {
        "text": None,
        "tokens": None,
        "offsets": None,
        "token_ids": np.zeros(allowed.keys, np.int64),
        "model": ModelInfo("unnamed"),
    }
    dtype = known.pop("dtype", "unknown")
    return Trace(
        **{**defaults, **known},
        policy=policy,
        execution=Execution(
            kernel=kernel,
            reason=reason,
            device=str(allowed.device),
            dtype=dtype,
            threads=torch.get_num_threads(),
        ),
        versions=versions(),
        block=(1, 1) if decisions[0] is None else decisions[0].block,
        density=_stack([record.density for record in records], item),
        predicted_mass=_stack([record.predicted_mass for record in records], item),
        calibrated_mass=_rows([record.calibrated_mass for record in records], item, np.float32),
        retained_mass=_stack([record.retained_mass for record in records], item) if full else None,
        attention_received=_stack([record.attention_received for record in records], item)
        if full
        else None,
        mass_queries=None if drawn is None else drawn.numpy().astype(np.int32),
        retained_rows=None
        if drawn is None
        else _rows([record.retained_rows for record in records], item, np.float32),
        first=first,
        last=last,
        forced=forced,
        layer_kind=plan,
        targets=np.array([1.0 if d is None else d.target for d in decisions], np.float32),
        layers=InMemory(packed) if packed else None,
        kept_tokens=_rows([record.kept_tokens for record in records], item, bool),
        token_score=_rows([record.token_score for record in records], item, np.float32),
    )


def _plans(records: list[LayerRecord], item: int) -> tuple[Array, Array, Array, Array]:
    """What layers share: (first, last, forced) of each kind of layer, and the kind of each layer."""
    kinds: dict[tuple[int, int], int] = {}
    parts: list[tuple[Array, Array, Array]] = []
    plan = []
    for record in records:
        decision, allowed = record.decision, record.allowed
        key = (id(allowed), 0 if decision is None else id(decision.forced))
        if key not in kinds:
            if allowed.intervals is None:
                raise TraceError("a mask with gaps cannot be stored in a trace")
            codes = torch.zeros(1, 1, 1, 1) if decision is None else decision.forced
            kinds[key] = len(parts)
            first, last, code = (
                x[item if len(x) > 1 else 0].cpu().numpy() for x in (*allowed.intervals, codes)
            )
            parts.append((first, last, code.astype(np.uint8)))
        plan.append(kinds[key])
    heads = max(code.shape[0] for _, _, code in parts)
    forced = [np.broadcast_to(code, (heads, *code.shape[1:])) for _, _, code in parts]
    return (
        np.stack([first for first, _, _ in parts]),
        np.stack([last for _, last, _ in parts]),
        np.stack(forced),
        np.asarray(plan, np.int32),
    )


def _rows(values: list[Tensor | None], item: int, kind: type) -> Array | None:
    if any(value is None for value in values):
        return None
    return np.stack([value[item].cpu().numpy() for value in values if value is not None]).astype(
        kind
    )


def _stack(values: list[Any], item: int) -> Array:
    return np.stack([value[item].cpu().numpy() for value in values]).astype(np.float32)


def versions() -> dict[str, str]:
    """Versions of everything that a figure depends on."""
    found = {"python": sys.version.split()[0]}
    for package in ("saa-core", "torch", "transformers"):
        found[package] = importlib.metadata.version(package)
    found["cpu"] = torch.backends.cpu.get_cpu_capability()
    found["cores"] = str(os.cpu_count())
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
