"""How a result was measured: every round, everything that is needed to repeat it, and the trace itself."""

import pandas as pd
import streamlit as st

from app.charts import time as time_charts
from app.components.shared.download import export
from app.components.shared.figures import Figures
from app.live.values import Result
from app.state.uploads import trace_bytes
from app.text import Words


def show_measurement(found: Figures, result: Result, words: Words) -> None:
    """Everything that is needed to repeat the measurement."""
    st.subheader(words("measured.header"), anchor="measured")
    trace, timing = result.trace, result.timing
    with st.expander(words("measured.open")):
        if timing is not None and result.dense_timing is not None:
            rounds = len(timing.samples_ms)
            key = "measured.intro_once" if rounds == 1 else "measured.intro"
            st.markdown(words(key, rounds=rounds))
            dark = st.context.theme.type == "dark"
            chart = time_charts.samples(result.dense_timing, timing, words, dark)
            st.altair_chart(chart)
            export("times", words("measured.header"), words, trace, chart=chart)
        rows = [(words(f"measured.{name}"), value) for name, value in _facts(found, result, words)]
        facts = pd.DataFrame(rows, columns=[words("measured.row"), words("measured.value")])
        st.dataframe(facts, hide_index=True, width="stretch", row_height=32)
        export("measured", words("measured.open"), words, trace, rows=facts)
    st.download_button(
        words("explore.download"),
        data=lambda: trace_bytes(trace),
        file_name="run.saa",
        mime="application/octet-stream",
        on_click="ignore",
    )


def _facts(found: Figures, result: Result, words: Words) -> list[tuple[str, str]]:
    trace, timing = result.trace, result.timing
    execution, versions, policy = trace.execution, trace.versions, trace.policy
    missing = words("measured.not_recorded")
    M, S = trace.block
    return [
        (
            "machine",
            words(
                "measured.machine_value",
                device=execution.device,
                threads=execution.threads,
                cores=versions.get("cores", "?"),
                cpu=versions.get("cpu", "?"),
            ),
        ),
        (
            "model",
            words(
                "measured.model_value",
                model=trace.model.name,
                family=trace.model.family,
                dtype=execution.dtype,
                gate=trace.model.gate,
            ),
        ),
        ("weights", (result.spec.note if result.spec else "") or missing),
        (
            "policy",
            words("measured.policy_dense")
            if policy is None
            else words(
                "measured.policy_value", policy=policy, sink=policy.sink, local=policy.local
            ),
        ),
        (
            "kernel",
            words("measured.kernel_value", kernel=execution.kernel, reason=execution.reason),
        ),
        ("length", words("measured.length_value", tokens=found.tokens)),
        (
            "granularity",
            words("measured.granularity_pair")
            if found.pairwise or policy is None
            else words("measured.granularity_block", queries=M, keys=S),
        ),
        (
            "rounds",
            missing
            if timing is None
            else words("measured.rounds_value", rounds=len(timing.samples_ms)),
        ),
        (
            "compile",
            missing
            if timing is None
            else words("measured.compile_value", compile=words.milliseconds(timing.compile_ms)),
        ),
        (
            "stages",
            missing
            if timing is None
            else " · ".join(
                f"{stage} {words.milliseconds(ms)}" for stage, ms in timing.stages_ms.items()
            ),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
