"""What audits found, as figures: by slice of texts, as distributions, and text by text, worst first.

Asks the store in SQL, so that nothing is held here that grows with the number of texts. Shares are in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Any

from saa_core.bounds import binomial_interval
from saa_core.certify.slices import SLICES
from saa_core.errors import StoreError, choice
from saa_core.store import Store
from saa_core.store.sql import quoted

MEASURES = ("agreement", "lost", "density", "token_share")
"""Columns of ``runs`` of which a distribution can be asked for."""
ALL = "all"
STEPS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Widths of a bar."""
BARS = 20
EDGE = 1e-9
"""A value this near to the end of a bar belongs to the next one, so that rounding moves nothing."""
WORST = "agreement, lost DESC, runs.id"


@dataclass(frozen=True)
class About:
    """One audit of a store.

    Args:
        labels: True if it is of a classification task, where agreement is that of labels.
    """

    key: str
    model: str
    policy: str
    texts: int
    labels: bool


@dataclass(frozen=True)
class SliceFigures:
    """Means over the texts of one slice; "all" is all of them.

    Args:
        density: kept / allowed pairs.
        token_share: share of the token work that was done.
        agreement: share of next words, or of labels, that are the dense run's.
        low, high: of next words the quartiles over the texts, of labels the 95 % interval (Clopper
            and Pearson) of the share.
        lost: see :class:`saa_core.trace.audited.Audited`.
    """

    name: str
    texts: int
    density: float
    token_share: float
    agreement: float
    low: float
    high: float
    lost: float


@dataclass(frozen=True)
class Bar:
    """So many texts have a value from ``low`` to ``high``, the end not included but in the last bar."""

    low: float
    high: float
    texts: int


@dataclass(frozen=True)
class Case:
    """One text of an audit; ``dense_id`` is None where the dense run was deleted."""

    id: str
    dense_id: str | None
    text: str
    tokens: int
    density: float
    token_share: float
    agreement: float
    lost: float
    label: str | None
    dense_label: str | None


def audits(store: Store) -> list[About]:
    """The audits of a store, the latest first."""
    sql = (
        # A run that the reference model answered has no policy of its own.
        "SELECT audit AS key, max(model) AS model, coalesce(max(policy), 'dense') AS policy, "
        "count(*) AS texts, bool_or(label IS NOT NULL) AS labels FROM runs "
        "WHERE audit IS NOT NULL GROUP BY audit ORDER BY max(recorded) DESC, audit"
    )
    return [About(**row) for row in store.query(sql).to_pylist()]


def about(store: Store, key: str) -> About:
    """One audit. Raises StoreError if the store has none of this key."""
    found = {each.key: each for each in audits(store)}
    if key not in found:
        raise StoreError(choice("audit", key, found))
    return found[key]


def by_slice(store: Store, which: About) -> list[SliceFigures]:
    """All texts, and every slice that has some, in the order of SLICES."""
    figures = "density, token_share, agreement, lost"
    sql = f"""
        WITH parts AS (
            SELECT {quoted(ALL)} AS name, {figures} FROM runs WHERE {_where(which.key)}
            UNION ALL SELECT unnest(slices) AS name, {figures} FROM runs WHERE {_where(which.key)}
        )
        SELECT name, count(*) AS texts, avg(density) AS density, avg(token_share) AS token_share,
            avg(agreement) AS agreement, quantile_cont(agreement, 0.25) AS low,
            quantile_cont(agreement, 0.75) AS high, avg(lost) AS lost, sum(agreement) AS same
        FROM parts GROUP BY name"""
    found = {row["name"]: _slice(row, which.labels) for row in store.query(sql).to_pylist()}
    return [found[name] for name in (ALL, *SLICES) if name in found]


def _slice(row: dict[str, Any], labels: bool) -> SliceFigures:
    same = row.pop("same")
    if labels:
        row["low"], row["high"] = binomial_interval(round(same), row["texts"], 0.05)
    return SliceFigures(**row)


def distribution(store: Store, key: str, measure: str, part: str = ALL) -> list[Bar]:
    """How many texts of a slice have which value, bars without a text included.

    The bars are those of all texts, so that slices can be compared.

    Raises:
        StoreError: the measure is not one of MEASURES.
    """
    scale = _scale(store, key, measure)
    if scale is None:
        return []
    first, last, step = scale
    sql = (
        f"SELECT {_bar(measure, scale)} AS bar, count(*) AS texts FROM runs "
        f"WHERE {_where(key, part)} GROUP BY bar"
    )
    counts = {row["bar"]: row["texts"] for row in store.query(sql).to_pylist()}
    return [Bar(at * step, (at + 1) * step, counts.get(at, 0)) for at in range(first, last + 1)]


def cases(
    store: Store,
    key: str,
    *,
    part: str = ALL,
    measure: str | None = None,
    bar: int | None = None,
    limit: int = 100,
) -> list[Case]:
    """The texts of a slice, worst first: where least agrees, and of those what lost most.

    Args:
        measure, bar: only those of a bar of its distribution, counted from 0.
        limit: most texts.
    """
    where = _where(key, part)
    if measure is not None and bar is not None:
        scale = _scale(store, key, measure)
        if scale is None:
            return []
        where += f" AND {_bar(measure, scale)} = {scale[0] + bar}"
    columns = ", ".join(Case.__dataclass_fields__)
    sql = f"SELECT {columns} FROM runs WHERE {where} ORDER BY {WORST} LIMIT {int(limit)}"
    return [Case(**row) for row in store.query(sql).to_pylist()]


def _where(key: str, part: str = ALL) -> str:
    inside = "" if part == ALL else f" AND list_contains(slices, {quoted(part)})"
    return f"audit = {quoted(key)}{inside}"


def _scale(store: Store, key: str, measure: str) -> tuple[int, int, float] | None:
    """First and last bar and their width; None without texts."""
    if measure not in MEASURES:
        raise StoreError(choice("measure", measure, MEASURES))
    sql = f"SELECT min({measure}) AS low, max({measure}) AS high FROM runs WHERE {_where(key)}"
    ((low, high),) = (tuple(row.values()) for row in store.query(sql).to_pylist())
    if low is None:
        return None
    step = next((step for step in STEPS if (high - low) / step <= BARS), STEPS[-1])
    first = math.floor(low / step + EDGE)
    return first, max(first, math.ceil(high / step - EDGE) - 1), step


def _bar(measure: str, scale: tuple[int, int, float]) -> str:
    _, last, step = scale
    return f"least(floor({measure} / {step!r} + {EDGE!r})::INTEGER, {last})"
