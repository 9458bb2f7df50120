"""Figures of a presentation: taken from a trace or from a file of measured ones, never typed.

Each carries when and on what it was recorded.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from saa_core.errors import DeckError, choice
from saa_core.report.sentences import sentences
from saa_core.trace.maps import Array
from saa_core.trace.trace import Trace
from saa_core.types import quartiles

UNITS = ("times", "percent", "change", "points", "count", "text")
SPREADS = ("quartiles", "interval", "heads")


@dataclass(frozen=True)
class MeasuredFigure:
    """A figure as it was recorded.

    Args:
        value: in its unit; a text for the unit "text".
        unit: one of UNITS; "percent", "change" (a percentage with its sign) and "points" count to 100.
        recorded: day, ISO 8601.
        device, cpu, threads: what it was recorded on.
        source: the command that measured it, or model and policy of the trace.
        low, high: spread, in the same unit; None where there is none.
        spread: what low and high are, one of SPREADS.

    Raises:
        DeckError: a value is not what it must be.
    """

    value: float | str
    unit: str
    recorded: str
    device: str
    cpu: str
    threads: int
    source: str
    low: float | None = None
    high: float | None = None
    spread: str = "quartiles"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise DeckError(choice("unit", self.unit, UNITS))
        if self.spread not in SPREADS:
            raise DeckError(choice("spread", self.spread, SPREADS))
        if isinstance(self.value, str) != (self.unit == "text"):
            raise DeckError(f"value={self.value!r} does not fit unit={self.unit!r}")
        numbers = [x for x in (self.value, self.low, self.high) if x is not None]
        if self.unit != "text" and not all(
            isinstance(x, (int, float)) and math.isfinite(x) for x in numbers
        ):
            raise DeckError(f"value, low and high must be finite numbers, not {numbers!r}")


@dataclass(frozen=True)
class Figure:
    """A figure as it is shown: everything is text."""

    label: str
    value: str
    spread: str
    recorded: str
    source: str


def words(language: str) -> Mapping[str, Any]:
    """The sentences around a presentation.

    Raises:
        DeckError: there are none in this language.
    """
    return sentences("saa_core.deck", language, DeckError)


def format_figure(label: str, measured: MeasuredFigure, language: str) -> Figure:
    """A figure with its unit, its spread, and when and where it was recorded."""
    say = words(language)

    def format_value(value: float | str) -> str:
        text: str = say["units"][measured.unit].format(value=value)
        return text.replace("-", "−") if measured.unit in ("change", "points") else text

    spread = ""
    if measured.low is not None and measured.high is not None:
        ends = {"low": format_value(measured.low), "high": format_value(measured.high)}
        spread = say["spreads"][measured.spread].format(**ends)
    recorded = say["recorded_figure"].format(
        date=measured.recorded, device=measured.device, cpu=measured.cpu, threads=measured.threads
    )
    return Figure(label, format_value(measured.value), spread, recorded, measured.source)


def read_measured(file: Path, name: str) -> MeasuredFigure:
    """One entry of a JSON file of measured figures.

    Raises:
        DeckError: the file cannot be read, or has no such entry.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeckError(f"measured figures {file}: cannot be read: {error}") from error
    if not isinstance(table, dict) or name not in table:
        raise DeckError(choice("measured", name, table if isinstance(table, dict) else ()))
    try:
        return MeasuredFigure(**table[name])
    except TypeError as error:
        raise DeckError(f"measured figures {file}: {name}: {error}") from error


def trace_figure(trace: Trace, of: str, recorded: datetime) -> MeasuredFigure:
    """A figure of a recorded trace.

    Args:
        of: one of FIGURES.

    Raises:
        DeckError: there is no such figure, or this trace does not hold it.
    """
    if of not in FIGURES:
        raise DeckError(choice("of", of, FIGURES))
    found = FIGURES[of](trace)
    if found is None:
        raise DeckError(f"of={of!r}: this trace of {trace.model.name} does not hold it")
    policy = "dense" if trace.policy is None else str(trace.policy)
    return MeasuredFigure(
        **found,
        recorded=f"{recorded:%Y-%m-%d}",
        device=trace.execution.device,
        cpu=trace.versions.get("cpu", "?"),
        threads=trace.execution.threads,
        source=f"{trace.model.name}, {policy}",
    )


def _over_heads(value: float, heads: Array) -> dict[str, Any]:
    low, _, high = quartiles((100 * heads).ravel().tolist())
    return {"value": 100 * value, "unit": "percent", "low": low, "high": high, "spread": "heads"}


def _pairs_dropped(trace: Trace) -> dict[str, Any]:
    return _over_heads(trace.sparsity, 1 - trace.density)


def _attention_kept(trace: Trace) -> dict[str, Any] | None:
    if trace.retained_mass is None:
        return None
    return _over_heads(float(trace.retained_mass.mean()), trace.retained_mass)


def _tokens_computed(trace: Trace) -> dict[str, Any]:
    return {"value": 100 * trace.token_share, "unit": "percent"}


def _tokens(trace: Trace) -> dict[str, Any]:
    return {"value": trace.keys, "unit": "count"}


def _label(trace: Trace) -> dict[str, Any] | None:
    if trace.label is None or trace.label_probs is None:
        return None
    return {
        "value": f"{trace.label} ({100 * float(trace.label_probs.max()):.0f}\N{NO-BREAK SPACE}%)",
        "unit": "text",
    }


def _speed(trace: Trace) -> dict[str, Any] | None:
    sides = {timing.name == "dense": timing for timing in trace.timing}
    if len(sides) < 2:
        return None
    low, middle, high = sides[False].ratio(sides[True])
    return {"value": middle, "unit": "times", "low": low, "high": high, "spread": "quartiles"}


FIGURES: dict[str, Callable[[Trace], dict[str, Any] | None]] = {
    "attention_kept": _attention_kept,
    "label": _label,
    "pairs_dropped": _pairs_dropped,
    "speed": _speed,
    "tokens": _tokens,
    "tokens_computed": _tokens_computed,
}
"""Figures that a trace can give."""
