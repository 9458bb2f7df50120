"""Where the time of one run goes, layer by layer, on demand; and the same as a file that Perfetto opens."""

import streamlit as st

from app.charts import timeline as charts
from app.components.shared.download import export, run_of
from app.components.shared.message import report_on
from app.export.provenance import about_trace
from app.live.values import Result
from app.service import Client
from app.text import Words
from saa_core.run.timeline import Timeline, timeline_bytes


def show_timeline(result: Result, client: Client, words: Words) -> None:
    """The button, and what came out for the text on the page."""
    state = st.session_state
    st.subheader(words("timeline.header"), anchor="timeline")
    st.caption(words("timeline.caption", tokens=result.trace.keys))
    if st.button(words("timeline.measure"), key="measure-timeline"):
        bar = st.progress(0.0)
        sides = client.timeline(result, report_on(bar, words))
        state.timeline = (result.request, sides)
        bar.empty()
    request, sides = state.get("timeline", (None, None))
    if sides is None or request != result.request:
        return
    dark = st.context.theme.type == "dark"
    chart = charts.timeline(sides, words, dark)
    st.altair_chart(chart, key="timeline-chart")
    st.markdown(_sentence(sides, words))
    left, right = st.columns([1, 4], vertical_alignment="center")
    with left:
        rows = charts.stretches(sides, words)
        export("timeline", words("timeline.header"), words, result.trace, chart=chart, rows=rows)
    about = about_trace(result.trace, run_of(result.trace))
    right.download_button(
        words("timeline.perfetto"),
        data=lambda: timeline_bytes(sides, about),
        file_name="saa-timeline.json",
        mime="application/json",
        on_click="ignore",
        type="tertiary",
        help=words("timeline.perfetto_help"),
        key="timeline-perfetto",
    )


def _sentence(sides: tuple[Timeline, Timeline], words: Words) -> str:
    """What both took, and how much of it was attention."""
    dense, sparse = sides
    ms = words.milliseconds
    attention = [side.total_ms - side.by_stage().get("rest", 0.0) for side in sides]
    return words(
        "timeline.says",
        dense=ms(dense.total_ms),
        saa=ms(sparse.total_ms),
        dense_attention=ms(attention[0]),
        saa_attention=ms(attention[1]),
    )
