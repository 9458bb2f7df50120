"""Machines and money: what is assumed, what was measured, and what follows; for a meeting, on paper too.

Every figure comes from saa_core.costs; this file asks, shows and says where each number was measured.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
import streamlit as st

import saa_core as saa
from app.charts import time as time_charts
from app.components.latency.latency import machine, shipped_timings
from app.components.shared.download import export
from app.state import address as link
from app.state import session
from app.text import Words, plain
from saa_core.run.costs import HOURS, Assumptions, MeasuredLength, Saving, saving

FIELDS = ("requests", "price", "peak", "busy", "share")
START = {"requests": 1_000_000.0, "price": 0.40, "peak": 3.0, "busy": 60.0, "share": 100.0}
LIMITS = {
    "requests": (0.0, 1e10, 10_000.0),
    "price": (0.0, 1e7, 0.05),
    "peak": (1.0, 100.0, 0.5),
    "busy": (1.0, 100.0, 5.0),
    "share": (1.0, 100.0, 5.0),
}
"""Smallest, largest and step of each field, as it stands on the page (shares in percent)."""
CURRENCIES = {"USD": "$", "EUR": "€", "JPY": "¥", "GBP": "£"}


def assumptions(words: Words) -> tuple[Assumptions, str]:
    """Fields for everything that is assumed, begun as the address says; and the currency."""
    state = st.session_state
    _restore()
    st.subheader(words("cost.assumed_header"), anchor="assumed")
    st.caption(words("cost.assumed_caption"))
    first, second = st.container(), st.container()
    places = [
        *first.columns(3, vertical_alignment="bottom"),
        *second.columns(3, vertical_alignment="bottom"),
    ]
    found = {}
    for place, name in zip(places[:5], FIELDS, strict=True):
        low, high, step = LIMITS[name]
        found[name] = place.number_input(
            words(f"cost.{name}"),
            min_value=low,
            max_value=high,
            step=step,
            format="%.2f" if name == "price" else "%.0f" if name != "peak" else "%.1f",
            key=f"cost_{name}",
            help=words(f"cost.{name}_help"),
        )
    currency = places[5].selectbox(words("cost.currency"), CURRENCIES, key="cost_currency")
    state.cost_form = found | {"currency": currency}
    link.write(
        **{f"c_{name}": f"{value:.10g}" for name, value in found.items()}, c_currency=currency
    )
    shares = {name: found[name] / 100 for name in ("busy", "share")}
    return Assumptions(**(found | shares)), currency


def _restore() -> None:
    """The fields as they were left, else as the address says; what cannot be used is ignored."""
    state, address = st.session_state, st.query_params
    asked: dict[str, object] = {}
    if "cost_form" not in state or link.went_back():
        for name in FIELDS:
            with contextlib.suppress(ValueError):
                value = float(address.get(f"c_{name}", ""))
                if LIMITS[name][0] <= value <= LIMITS[name][1]:
                    asked[name] = value
        if address.get("c_currency") in CURRENCIES:
            asked["currency"] = address["c_currency"]
    wanted = START | {"currency": "USD"} | state.get("cost_form", {}) | asked
    for name, value in wanted.items():
        if f"cost_{name}" not in state or name in asked:
            state[f"cost_{name}"] = value


def source(choice: session.Choice, words: Words) -> list[saa.Timing]:
    """The times that everything rests on: measured on the Latency page, or shipped with the gate."""
    assert choice.model is not None
    here = st.session_state.get("latencies", {}).get((choice.name, choice.policy))
    timings: list[saa.Timing] = here or shipped_timings(choice.model)
    if not timings:
        st.info(words("cost.not_measured", model=plain(choice.name)))
        _to_latency(words)
        return []
    policy = plain(timings[1].name.removeprefix("saa "))
    st.caption(
        words(
            f"cost.source_{'here' if here else 'shipped'}",
            machine=machine(timings[0], words),
            policy=policy,
        )
    )
    if not here and policy != plain(str(choice.policy)):
        st.warning(words("cost.other_policy", policy=policy, asked=plain(str(choice.policy))))
    _to_latency(words)
    return timings


def _to_latency(words: Words) -> None:
    st.page_link("views/latency.py", label=words("cost.to_latency"), icon=":material/timer:")


def length(found: list[MeasuredLength], words: Words) -> MeasuredLength:
    """Which of the measured lengths a request has; the address holds it."""
    state, tokens = st.session_state, [part.tokens for part in found]
    asked = state.get("cost_asked_tokens") or st.query_params.get("c_tokens", "")
    if state.get("cost_tokens") not in tokens:
        known = [size for size in tokens if str(size) == str(asked)]
        state.cost_tokens = known[0] if known else _first_length(found)
    chosen = st.segmented_control(
        words("cost.tokens"),
        tokens,
        required=True,
        format_func=lambda size: f"{size:,}",
        key="cost_tokens",
        help=words("cost.tokens_help"),
    )
    state.cost_asked_tokens = chosen
    link.write(c_tokens=chosen)
    return found[tokens.index(chosen)]


def _first_length(found: list[MeasuredLength]) -> int:
    """The measured length next to the visitor's own text; without one, the first at which time is saved."""
    shown = session.recall(st.session_state.get("shown"))
    if shown is not None:
        return min(found, key=lambda part: abs(part.tokens - shown.trace.keys)).tokens
    saved = (part.tokens for part in found if part.ratio[0] > 1)
    return next(saved, found[-1].tokens)


def verdict(bill: Saving, currency: str, words: Words) -> None:
    """What it comes to, in one sentence; plainly where it comes to nothing."""
    money = amount(abs(bill.monthly), currency)
    low, middle, high = (words.percent(abs(share)) for share in bill.share)
    if bill.verdict != "saves":
        st.header(
            words(f"cost.verdict_{bill.verdict}", tokens=bill.tokens, money=money), anchor="verdict"
        )
    else:
        st.header(
            words("cost.verdict_saves", tokens=bill.tokens, money=money, share=middle),
            anchor="verdict",
        )
        st.markdown(words("cost.spread", low=low, high=high))


def amount(value: float, currency: str) -> str:
    """Money without false precision: no cents from a hundred on."""
    digits = 2 if 0 < value < 100 and currency != "JPY" else 0
    return f"{CURRENCIES[currency]}{value:,.{digits}f}"


def _rounded(value: float) -> str:
    """Three digits: 0.57, 5.7, 57, 566."""
    return f"{value:,.{0 if value >= 10 else 1 if value >= 1 else 2}f}"


def figures(bill: Saving, currency: str, about: Mapping[str, Any], words: Words) -> None:
    """Both sides and what lies between them, median and quartiles.

    Args:
        about: what was assumed and measured, for whoever takes the figures away.
    """
    st.subheader(words("cost.result_header"), anchor="result")

    def spread(values: tuple[float, ...], form) -> str:
        low, middle, high = (form(value) for value in values)
        return middle if low == middle == high else f"{middle} ({low} – {high})"

    def seconds(value: float) -> str:
        return words.milliseconds(1000 * value)

    def money(value: float) -> str:
        return amount(value, currency)

    rows = [
        (
            words("cost.row_time"),
            *(spread(side.request_s, seconds) for side in (bill.dense, bill.saa)),
        ),
        (
            words("cost.row_load"),
            *(spread(side.load, _rounded) for side in (bill.dense, bill.saa)),
        ),
        (
            words("cost.row_machines"),
            *(spread(side.machines, "{:,.0f}".format) for side in (bill.dense, bill.saa)),
        ),
        (words("cost.row_cost"), *(spread(side.cost, money) for side in (bill.dense, bill.saa))),
    ]
    names = [words("measured.row"), words("chart.dense"), words("chart.saa")]
    table = pd.DataFrame(rows, columns=names)
    st.table(table.set_index(names[0]))
    export("result", words("cost.result_header"), words, about, rows=table)
    low, middle, high = bill.ratio
    st.caption(words("cost.ratio", middle=middle, low=low, high=high))


def by_length(
    found: list[MeasuredLength],
    assumed: Assumptions,
    currency: str,
    about: Mapping[str, Any],
    words: Words,
) -> None:
    """The same assumptions at every length that was measured; ``about`` as of :func:`figures`."""
    st.subheader(words("cost.lengths_header"), anchor="lengths")
    bills = [saving(part, assumed) for part in found]
    dark = st.context.theme.type == "dark"
    chart = time_charts.monthly(bills, CURRENCIES[currency], words, dark)
    st.altair_chart(chart, key="monthly")
    export("monthly", words("cost.lengths_header"), words, about, chart=chart)
    rows = [
        {
            words("latency.tokens"): f"{bill.tokens:,}",
            words("cost.time_saved"): words.signed(bill.share[1]),
            words("cost.row_machines") + f", {words('chart.dense')}": bill.dense.machines[1],
            words("cost.row_machines") + f", {words('chart.saa')}": bill.saa.machines[1],
            words("cost.monthly"): ("−" if bill.monthly < 0 else "")
            + amount(abs(bill.monthly), currency),
            words("cost.says"): words(f"cost.short_{bill.verdict}"),
        }
        for bill in bills
    ]
    table = pd.DataFrame(rows)
    st.table(table.set_index(words("latency.tokens")))
    export("lengths", words("cost.lengths_header"), words, about, rows=table)


def method(assumed: Assumptions, words: Words) -> None:
    """How machines and money follow from the times, with today's numbers in it."""
    st.subheader(words("cost.method_header"), anchor="method")
    st.markdown(words("cost.method", hours=f"{HOURS:,.0f}", **asdict(assumed)))
    st.caption(words("cost.not_in_it"))
