"""A trace as one HTML file that works offline: figures, tokens, an interactive map, reasons, guard.

The file asks for nothing outside itself; see maps.py for the map.
"""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from saa_core.files import write_text
from saa_core.report.maps import (
    POLICY,
    embed_json,
    map_data,
    map_panel,
    part,
    report_words,
)
from saa_core.report.sentences import LANGUAGES
from saa_core.trace.check import check
from saa_core.trace.maps import Array
from saa_core.trace.trace import Trace
from saa_core.types import quartiles

__all__ = ["LANGUAGES", "percent", "report", "script", "spread", "write_report"]


def write_report(trace: Trace, file: Path, *, language: str = "en", name: str = "") -> Path:
    """Writes the report.

    Args:
        name: what the trace is called, for the heading.

    Raises:
        TraceError: the trace's parts do not fit together, or the language is not known.
    """
    write_text(file, report(trace, language=language, name=name))
    return file


def script() -> str:
    """The one script of a report, for whoever serves one and lets no other run."""
    return part("maps.js") + part("page.js")


def report(
    trace: Trace, *, language: str = "en", name: str = "", explorer: str | None = None
) -> str:
    """The report as HTML; see :func:`write_report`.

    Args:
        explorer: address at which the run opens in the explorer, where the report is served beside it.
    """
    words = report_words(language)
    check(trace, maps=True)
    link = (
        ""
        if explorer is None
        else f'<p><a href="{escape(explorer, quote=True)}">{escape(words["explorer"])}</a></p>'
    )
    untrained = "" if trace.model.trained else f"<p class=warning>{escape(words['untrained'])}</p>"
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{POLICY}\n'
        f"<title>{escape(words['title'])} {escape(name)}</title>\n"
        f"<style>{part('page.css')}{part('maps.css')}</style></head><body><main>\n"
        f"<h1>{escape(words['title'])}</h1><p class=quiet>{escape(words['recorded'])} "
        f"{escape(name)}</p>\n{link}{untrained}<table>{''.join(_rows(trace, words))}</table>\n"
        f"{map_panel(trace, words)}\n{_events(trace, words)}\n</main>\n"
        f"{embed_json('data', map_data(trace, words))}\n"
        f"<script>{script()}</script></body></html>\n"
    )


def _rows(trace: Trace, words: Mapping[str, Any]) -> Iterable[str]:
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
                share=percent(trace.sparsity), pairs=pairs, spread=spread(1 - trace.density)
            ),
        ),
    ]
    if trace.retained_mass is not None:
        mean = percent(float(trace.retained_mass.mean()))
        said, interval = (
            f"{mean} ({words['half']} {spread(trace.retained_mass)})",
            trace.retained_interval(),
        )
        if interval is not None and trace.mass_queries is not None:
            drawn = words["drawn"].format(
                rows=len(trace.mass_queries),
                tokens=trace.keys,
                low=percent(interval[0]),
                high=percent(interval[1]),
            )
            said = f"{said}; {drawn}"
        rows.append(("retained", said))
    if trace.kept_tokens is not None:
        rows.append(("token_share", percent(trace.token_share)))
    if trace.label is not None and trace.label_probs is not None:
        rows.append(("label", f"{trace.label} ({percent(float(trace.label_probs.max()))})"))
    for timing in trace.timing:
        low, middle, high = quartiles(timing.samples_ms)
        times = f"{timing.name}: {middle:,.1f} ms ({low:,.1f} – {high:,.1f})"
        rows.append(("time", f"{times}, {words['rounds'].format(n=len(timing.samples_ms))}"))
    rows += [
        ("kernel", f"{execution.kernel}: {execution.reason}"),
        ("machine", f"{execution.device}, {words['threads'].format(n=execution.threads)}"),
        ("versions", ", ".join(f"{key} {value}" for key, value in trace.versions.items())),
    ]
    for key, value in rows:
        yield f"<tr><th>{escape(words[key])}</th><td>{escape(value)}</td></tr>"


def percent(share: float) -> str:
    """0.64 -> "64.0 %"."""
    return f"{100 * share:.1f} %"


def spread(values: Array) -> str:
    """Quartiles of shares, "40.0 % – 60.0 %"."""
    low, _, high = quartiles(values.ravel().tolist())
    return f"{percent(low)} – {percent(high)}"


def _figure(event: Mapping[str, Any], name: str) -> str:
    """One cell of the table of events; the distance of an input is no share."""
    value = event.get(name)
    if not isinstance(value, float):
        return "" if value is None else str(value)
    distance = event.get("suspected") == "input" and name in ("measured", "limit")
    return f"{value:.2f}" if distance else percent(value)


def _events(trace: Trace, words: Mapping[str, Any]) -> str:
    """What the guard suspected, measured and did."""
    if not trace.events:
        return f"<h2>{escape(words['guard'])}</h2><p>{escape(words['no_guard'])}</p>"
    columns = (
        "layer",
        "suspected",
        "measured",
        "after",
        "done",
        "added",
        "estimate",
        "bound",
        "limit",
    )
    head = "".join(f"<th>{escape(words['events'][name])}</th>" for name in columns)
    body = ""
    for event in trace.events:
        cells = [_figure(event, name) for name in columns]
        body += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    return f"<h2>{escape(words['guard'])}</h2><table class=events><tr>{head}</tr>{body}</table>"
