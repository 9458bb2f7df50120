"""A trace as one HTML file that works offline: figures, tokens, an interactive map, reasons, guard.

The file asks for nothing outside itself. Everything that a text or a model could have written is
escaped or set as plain text. Scores are left out: the map of a long text would take hundreds of MB.
"""

import base64
import json
import tomllib
import zlib
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from saa_core.errors import TraceError, choice
from saa_core.files import write_text
from saa_core.trace import Array, Trace
from saa_core.trace_check import check
from saa_core.types import KEPT, REASONS

LANGUAGES = ("en", "ja")


def write_report(trace: Trace, file: Path, *, language: str = "en", name: str = "") -> Path:
    """Writes the report.

    Args:
        name: what the trace is called, for the heading.

    Raises:
        TraceError: the trace's parts do not fit together, or the language is not known.
    """
    write_text(file, report(trace, language=language, name=name))
    return file


def report(trace: Trace, *, language: str = "en", name: str = "") -> str:
    """The report as HTML; see :func:`write_report`."""
    if language not in LANGUAGES:
        raise TraceError(choice("language", language, LANGUAGES))
    check(trace, maps=True)
    words = tomllib.loads(_part("text.toml"))[language]
    data = json.dumps(_data(trace, words), ensure_ascii=False).replace("<", "\\u003c")
    untrained = "" if trace.model.trained else f"<p class=warning>{escape(words['untrained'])}</p>"
    has_maps = trace.policy is None or trace.layers is not None
    maps = _part("maps.html") if has_maps else f"<p>{escape(words['summary'])}</p>"
    for key, value in words.items():
        if isinstance(value, str):
            maps = maps.replace(f"[[{key}]]", escape(value, quote=True))
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(words['title'])} {escape(name)}</title>\n"
        f"<style>{_part('page.css')}</style></head><body><main>\n"
        f"<h1>{escape(words['title'])}</h1><p class=quiet>{escape(words['recorded'])} "
        f"{escape(name)}</p>\n{untrained}<table>{''.join(_rows(trace, words))}</table>\n"
        f"{maps}\n{_events(trace, words)}\n</main>\n"
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>{_part('page.js')}</script></body></html>\n"
    )


def _part(name: str) -> str:
    return (resources.files("saa_core.report") / name).read_text(encoding="utf-8")


def _rows(trace: Trace, words: Mapping[str, str]) -> Iterable[str]:
    """The figures, one row each, with unit and spread."""
    execution, (layers, heads) = trace.execution, trace.shape
    pairs = int(trace.allowed_pairs.sum()) * heads
    gate = f"{trace.model.gate} ({words['trained' if trace.model.trained else 'not_trained']})"
    rows: list[tuple[str, str]] = [
        ("model", f"{trace.model.name}, {execution.dtype}"),
        ("gate", gate),
        ("text", words["text_value"].format(tokens=trace.keys, layers=layers, heads=heads)),
        ("policy", words["dense"] if trace.policy is None else str(trace.policy)),
        (
            "decided",
            words["pairs"]
            if trace.block == (1, 1)
            else words["blocks"].format(queries=trace.block[0], keys=trace.block[1]),
        ),
        (
            "dropped",
            words["dropped_value"].format(
                share=_percent(trace.sparsity), pairs=pairs, spread=_spread(1 - trace.density)
            ),
        ),
    ]
    if trace.retained_mass is not None:
        mean = _percent(float(trace.retained_mass.mean()))
        rows.append(("retained", f"{mean} ({words['half']} {_spread(trace.retained_mass)})"))
    if trace.alive is not None:
        rows.append(("token_share", _percent(trace.token_share)))
    if trace.label is not None and trace.label_probs is not None:
        rows.append(("label", f"{trace.label} ({_percent(float(trace.label_probs.max()))})"))
    for timing in trace.timing:
        low, middle, high = np.percentile(timing.samples_ms, [25, 50, 75])
        times = f"{timing.name}: {middle:,.1f} ms ({low:,.1f} – {high:,.1f})"
        rows.append(("time", f"{times}, {words['rounds'].format(n=len(timing.samples_ms))}"))
    rows += [
        ("kernel", f"{execution.kernel}: {execution.reason}"),
        ("machine", f"{execution.device}, {words['threads'].format(n=execution.threads)}"),
        ("versions", ", ".join(f"{key} {value}" for key, value in trace.versions.items())),
    ]
    for key, value in rows:
        yield f"<tr><th>{escape(words[key])}</th><td>{escape(value)}</td></tr>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _spread(values: Array) -> str:
    low, high = np.percentile(values, [25, 75])
    return f"{_percent(float(low))} – {_percent(float(high))}"


def _events(trace: Trace, words: Mapping[str, Any]) -> str:
    """What the guard suspected, measured and did."""
    if not trace.events:
        return f"<h2>{escape(words['guard'])}</h2><p>{escape(words['no_guard'])}</p>"
    columns = ("layer", "suspected", "measured", "after", "done", "estimate", "bound", "limit")
    head = "".join(f"<th>{escape(words['events'][name])}</th>" for name in columns)
    body = ""
    for event in trace.events:
        cells = [
            _percent(value) if isinstance(value, float) else "" if value is None else str(value)
            for value in (event.get(name) for name in columns)
        ]
        body += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    return f"<h2>{escape(words['guard'])}</h2><table class=events><tr>{head}</tr>{body}</table>"


def _data(trace: Trace, words: Mapping[str, Any]) -> dict[str, Any]:
    """What the script draws from: maps bit-packed and compressed, layer by layer."""
    tokens = trace.tokens or tuple(map(str, trace.token_ids))
    received = None if trace.received is None else trace.received.mean((0, 1))
    full = trace.policy is not None and trace.layers is not None
    return {
        "tokens": list(tokens),
        "received": None if received is None else np.round(received, 5).tolist(),
        "density": np.round(trace.density, 4).tolist(),
        "block": list(trace.block) if trace.policy is not None else [1, 1],
        "first": trace.first.tolist(),
        "last": trace.last.tolist(),
        "plan": trace.plan.tolist(),
        "forced": [_packed(kind) for kind in trace.forced] if full else None,
        "forcedHeads": trace.forced.shape[1],
        "keep": [_packed(_bits(trace, layer)) for layer in range(trace.shape[0])] if full else None,
        "reasons": [words["reasons"][reason.replace(" ", "_")] for reason in REASONS],
        "kept": list(KEPT),
        "words": words["script"],
    }


def _bits(trace: Trace, layer: int) -> Array:
    """One layer's kept blocks, packed into bytes, [H, M, S / 8]."""
    assert trace.layers is not None
    return trace.layers.read(layer).keep


def _packed(values: Array) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()
