"""The interactive map of a trace in an HTML file: its markup, its data, its script and its style.

Several may stand in one file. Everything that a text or a model could have written is escaped or set
as plain text. Scores are left out: the map of a long text would take hundreds of MB.
"""

import base64
import zlib
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from saa_core.files import dump_json
from saa_core.report.sentences import sentences
from saa_core.trace.maps import Array
from saa_core.trace.trace import Trace
from saa_core.types import KEPT, REASONS

POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">"
)
"""What a browser lets such a file do: run its own script, and ask for nothing."""


def part(name: str) -> str:
    """A file of this package, such as "maps.js"."""
    return (resources.files("saa_core.report") / name).read_text(encoding="utf-8")


def report_words(language: str) -> Mapping[str, Any]:
    """The sentences of a report and its maps.

    Raises:
        TraceError: there are none in this language.
    """
    return sentences("saa_core.report", language)


def has_maps(trace: Trace) -> bool:
    """False for a summary, which holds figures only."""
    return trace.policy is None or trace.layers is not None


def map_panel(trace: Trace, words: Mapping[str, Any]) -> str:
    """Markup that `drawMap` of maps.js fills; a sentence where the trace has no maps."""
    if not has_maps(trace):
        return f"<p>{escape(words['summary'])}</p>"
    panel, absent = part("maps.html"), set[str]()
    absent |= {"tokens_shade"} if trace.attention_received is None else set()
    absent |= {"tokens_dropped"} if trace.kept_tokens is None else set()
    for key, value in {**words, **dict.fromkeys(absent, "")}.items():
        if isinstance(value, str):
            panel = panel.replace(f"[[{key}]]", escape(value, quote=True))
    return panel


def map_data(trace: Trace, words: Mapping[str, Any]) -> dict[str, Any]:
    """What the script draws from: maps bit-packed and compressed, layer by layer."""
    tokens = trace.tokens or tuple(map(str, trace.token_ids))
    received = None if trace.attention_received is None else trace.attention_received.mean((0, 1))
    full = trace.policy is not None and trace.layers is not None
    return {
        "tokens": list(tokens),
        "received": None if received is None else np.round(received, 5).tolist(),
        "alive": None if trace.kept_tokens is None else trace.kept_tokens.astype(int).tolist(),
        "density": np.round(trace.density, 4).tolist(),
        "block": list(trace.block) if trace.policy is not None else [1, 1],
        "first": trace.first.tolist(),
        "last": trace.last.tolist(),
        "plan": trace.layer_kind.tolist(),
        "forced": [_pack(kind) for kind in trace.forced] if full else None,
        "forcedHeads": trace.forced.shape[1],
        "keep": [_pack(_bits(trace, layer)) for layer in range(trace.shape[0])] if full else None,
        "reasons": [words["reasons"][reason.replace(" ", "_")] for reason in REASONS],
        "kept": list(KEPT),
        "words": words["script"],
    }


def embed_json(name: str, value: object) -> str:
    """A value as JSON inside the file; nothing in it can end the element."""
    data = dump_json(value, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{data}</script>'


def _bits(trace: Trace, layer: int) -> Array:
    """One layer's kept blocks, packed into bytes, [H, M, S / 8]."""
    assert trace.layers is not None
    return trace.layers.read(layer).keep


def _pack(values: Array) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()
