"""Whether the parts of a trace fit together. A file that opens as a trace may still be hostile.

Opens no file but the trace's own maps.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from saa_core.errors import TraceError

if TYPE_CHECKING:
    from saa_core.trace.trace import Trace


def check(trace: "Trace", *, maps: bool = False) -> None:
    """Refuses a trace whose parts have sizes or values that no run makes.

    Args:
        maps: also read the maps of every layer.

    Raises:
        TraceError: names the parts that do not fit.
    """
    checks = {**_words(trace), **_figures(trace)}
    wrong = [part for part, fits in checks.items() if not fits]
    if not wrong and maps and trace.policy is not None and trace.layers is not None:
        wrong = [f"maps of layer {at}" for at in range(trace.shape[0]) if not _maps_fit(trace, at)]
    if wrong:
        raise TraceError(f"the parts of the trace do not fit together: {', '.join(wrong)}")


def _words(trace: "Trace") -> dict[str, bool]:
    """What comes from JSON and may be anything."""
    execution = trace.execution
    named = (*vars(trace.model).values(), execution.kernel, execution.reason, execution.device)
    times = [ms for timing in trace.timing for ms in (*timing.samples_ms, timing.compile_ms)]
    return {
        "text": trace.text is None or isinstance(trace.text, str),
        "names": all(isinstance(name, (str, bool)) for name in (*named, execution.dtype))
        and isinstance(execution.threads, int),
        "tokens and labels": all(
            isinstance(word, str) for word in (*(trace.tokens or ()), *(trace.labels or ()))
        ),
        "offsets": all(isinstance(at, int) for pair in trace.offsets or () for at in pair),
        "block": all(isinstance(size, int) for size in trace.block),
        "versions": isinstance(trace.versions, Mapping),
        "events": all(isinstance(event, Mapping) for event in trace.events),
        "timing": all(isinstance(ms, (int, float)) for ms in times)
        and all(timing.samples_ms for timing in trace.timing),
    }


def _figures(trace: "Trace") -> dict[str, bool]:
    if trace.token_ids is None or trace.token_ids.ndim != 1 or trace.density is None:
        return {"token_ids and density": False}
    keys, density = len(trace.token_ids), trace.density
    if density.ndim != 2 or not density.size or not keys:
        return {"density": False}
    layers, heads = density.shape
    needed = (trace.predicted_mass, trace.first, trace.last, trace.forced, trace.layer_kind)
    if any(part is None for part in (*needed, trace.targets)):
        return {"figures, first, last, forced, plan and targets": False}
    M, S = (-(-keys // size) if size > 0 else 0 for size in trace.block)
    kinds = len(trace.first)
    shares = [density, trace.predicted_mass]
    shares += [] if trace.retained_mass is None else [trace.retained_mass]
    return {
        "block sizes": M > 0 and S > 0,
        "density and mass": all(
            share.shape == density.shape and bool(np.isfinite(share).all()) for share in shares
        ),
        "targets": trace.targets.shape == (layers,),
        "number of tokens": trace.tokens is None or len(trace.tokens) == keys,
        "number of offsets": trace.offsets is None or len(trace.offsets) == keys,
        "attention_received": trace.attention_received is None
        or trace.attention_received.shape == (layers, heads, keys),
        "mass_queries and retained_rows": _drawn_fit(trace),
        "kept_tokens": trace.kept_tokens is None or trace.kept_tokens.shape == (layers, keys),
        "token_score": trace.token_score is None or trace.token_score.shape == (layers, keys),
        "labels": (trace.labels is None) == (trace.label_probs is None)
        and (trace.label_probs is None or trace.label_probs.shape == (len(trace.labels or ()),)),
        "first and last": trace.first.shape == trace.last.shape == (kinds, keys),
        "layer_kind": trace.layer_kind.shape == (layers,)
        and trace.layer_kind.dtype.kind in "iu"
        and bool(((trace.layer_kind >= 0) & (trace.layer_kind < kinds)).all()),
        "forced": trace.forced.ndim == 4
        and len(trace.forced) == kinds
        and trace.forced.shape[1] in (1, heads)
        and (trace.policy is None or trace.layers is None or trace.forced.shape[2:] == (M, S)),
        "top_ids and top_probs": (trace.top_ids is None) == (trace.top_probs is None)
        and (
            trace.top_ids is None
            or trace.top_probs is None
            or (trace.top_ids.shape == trace.top_probs.shape and len(trace.top_ids) == keys)
        ),
        "hidden": trace.hidden is None or (trace.hidden.ndim == 2 and len(trace.hidden) == keys),
    }


def _drawn_fit(trace: "Trace") -> bool:
    """Queries of which the true attention was computed, and what each of them kept."""
    drawn, rows = trace.mass_queries, trace.retained_rows
    if drawn is None or rows is None:
        return drawn is None and rows is None
    return (
        drawn.ndim == 1
        and len(drawn) > 1
        and drawn.dtype.kind in "iu"
        and bool(((drawn >= 0) & (drawn < trace.first.shape[1])).all())
        and rows.shape == (*trace.density.shape, len(drawn))
        and bool(np.isfinite(rows).all())
    )


def _maps_fit(trace: "Trace", layer: int) -> bool:
    assert trace.layers is not None
    packed = trace.layers.read(layer)
    M, S = trace.forced.shape[2:]
    heads = trace.shape[1]
    return (
        packed.keep.shape == (heads, M, -(-S // 8))
        and packed.keep.dtype == np.uint8
        and packed.score.shape == (heads, M, S)
        and packed.threshold.shape == (heads, M)
    )
