"""Time by length and quality by setting: measured on demand, shown as chart and as table."""

import pandas as pd
import streamlit as st

import saa_core as saa
from app.charts import time as time_charts
from app.components.shared.download import export
from app.components.shared.message import report_on
from app.export.provenance import about_timings
from app.live.values import Result
from app.service import Client
from app.state import session
from app.text import Words, plain
from saa_core.explain.tradeoff import Point, knee
from saa_core.run.timing import crossover
from saa_core.types import quartiles

LENGTHS = (128, 512, 1024, 2048, 4096)
CHOSEN = (512, 1024, 2048)


def shipped_timings(model: saa.Model) -> list[saa.Timing]:
    """The times that were shipped with a model's gate."""
    return [saa.Timing(**row) for row in model.spec.evaluation.get("timings", ())]


def machine(timing: saa.Timing, words: Words) -> str:
    """What measured, in words."""
    return words(
        "latency.machine",
        device=timing.device,
        threads=timing.threads,
        cpu=plain(timing.versions.get("cpu", "?")),
        dtype=timing.dtype,
        rounds=len(timing.samples_ms),
    )


def by_length(choice: session.Choice, client: Client, words: Words) -> None:
    """Dense against SAA by length: what was measured here, or what the gate was shipped with."""
    model, state = choice.model, st.session_state
    if model is None:
        return
    st.subheader(words("latency.length_header"), anchor="length")
    measured = state.setdefault("latencies", {})
    key = (choice.name, choice.policy)
    lengths = [length for length in LENGTHS if length <= model.max_length]
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    chosen = left.pills(
        words("latency.lengths"),
        lengths,
        default=[length for length in CHOSEN if length in lengths],
        selection_mode="multi",
        format_func=lambda length: f"{length:,}",
        key=f"lengths-{max(lengths)}",
    )
    if right.button(
        words("latency.measure"),
        type="primary",
        disabled=not chosen,
        key="measure",
        width="stretch",
    ):
        bar = st.progress(0.0)
        measured[key] = client.latency(
            choice.name,
            choice.policy,
            tuple(sorted(chosen)),
            report_on(bar, words),
        )
        bar.empty()
    timings = measured.get(key) or shipped_timings(model)
    if not timings:
        st.info(words("latency.not_yet"))
        return
    source = "here" if key in measured else "shipped"
    policy = plain(timings[1].name.removeprefix("saa "))
    st.caption(words(f"latency.source_{source}", machine=machine(timings[0], words), policy=policy))
    faster = crossover(timings)
    if faster is None:
        st.markdown(words("latency.never"))
    else:
        st.markdown(words("latency.from", tokens=faster))
    dark, about = st.context.theme.type == "dark", about_timings(timings)
    speed, time = st.columns(2, gap="medium")
    with speed:
        st.markdown(f"**{words('latency.speed_header')}**")
        chart = time_charts.speeds(timings, words, dark)
        st.altair_chart(chart, key="speeds")
        export("speeds", words("latency.speed_header"), words, about, chart=chart)
    with time:
        st.markdown(f"**{words('latency.stages_header')}**")
        chart = time_charts.stages(timings, words, dark)
        st.altair_chart(chart, key="stages")
        st.caption(words("latency.stages_caption"))
        export("stages", words("latency.stages_header"), words, about, chart=chart)
    table = _table(timings, words)
    st.dataframe(table, hide_index=True, width="stretch")
    export("lengths", words("page.latency"), words, about, rows=table)


def _table(timings: list[saa.Timing], words: Words) -> pd.DataFrame:
    rows = []
    for dense, sparse in zip(timings[::2], timings[1::2], strict=True):
        row: dict[str, object] = {words("latency.tokens"): dense.length}
        if sparse.density is not None:
            row[words("latency.pairs_computed")] = words.percent(sparse.density, 1)
        for field, name in (("attention_ms", "attention"), ("samples_ms", "prefill")):
            low, middle, high = sparse.ratio(dense, field)
            title = words(f"latency.{name}")
            for side, timing in (("dense", dense), ("saa", sparse)):
                median = quartiles(getattr(timing, field))[1]
                row[f"{title}, {words(f'chart.{side}')}"] = words.milliseconds(median)
            row[f"{title}, {words('latency.times')}"] = f"{middle:.2f} ({low:.2f} – {high:.2f})"
        rows.append(row)
    return pd.DataFrame(rows)


def by_setting(result: Result, client: Client, words: Words) -> None:
    """The text on the page under settings from sparse to nearly dense; the knee is marked."""
    state = st.session_state
    assert result.request is not None
    swept = state.setdefault("sweeps", {})
    st.caption(words("latency.text_caption", tokens=result.trace.keys))
    if st.button(words("latency.sweep"), key="sweep"):
        bar = st.progress(0.0)
        swept[result.request] = client.sweep(result, report_on(bar, words))
        bar.empty()
    points: list[Point] | None = swept.get(result.request)
    if points is None:
        return
    best = knee(points)
    encoder = points[0].agreement is None
    unit = words("latency.distance_cosine" if encoder else "latency.distance_kl")
    dark = st.context.theme.type == "dark"
    drawn, said = st.columns([3, 2], gap="medium")
    with drawn:
        policy = result.trace.policy or result.request.policy
        chart = time_charts.tradeoff(points, best, policy.mass, words, dark, unit)
        st.altair_chart(chart, key="tradeoff")
        export("tradeoff", words("latency.text_header"), words, result.trace, chart=chart)
    with said:
        st.markdown(
            words(
                "latency.knee_says",
                mass=points[best].mass,
                share=words.percent(points[best].density),
                distance=points[best].distance,
                unit=unit,
            )
        )
        st.caption(words("latency.knee_means"))
        st.button(
            words("latency.use", mass=points[best].mass),
            on_click=_use,
            args=(points[best].mass,),
            key="use-knee",
        )
    rows = [
        {
            words("sidebar.mass"): f"{point.mass:.2f}",
            words("latency.pairs_computed"): words.percent(point.density, 1),
            unit: f"{point.distance:.4f}",
        }
        | ({} if encoder else {words("figure.agreement"): words.percent(point.agreement or 0.0, 1)})
        for point in points
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
    export("settings", words("latency.text_header"), words, result.trace, rows=pd.DataFrame(rows))


def _use(mass: float) -> None:
    st.session_state.mass, st.session_state.rule = mass, "mass"
