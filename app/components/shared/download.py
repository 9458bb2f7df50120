"""The quiet control in the title line of a view, which gives it as PNG, SVG, JSON or Parquet.

Files are made when they are asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import streamlit as st

from app.charts.palette import palette
from app.export import formats as exports
from app.export.formats import Chart, Rows
from app.export.provenance import about_trace
from app.text import Words
from saa_core import Trace


def export(
    name: str,
    title: str,
    words: Words,
    about: Mapping[str, Any] | Trace,
    *,
    chart: Chart | Callable[[], Chart] | None = None,
    rows: Rows | Callable[[], Rows] | None = None,
) -> None:
    """One control for one view; see :class:`exports.ExportedView`.

    Args:
        name: once per page.
        about: of a trace, what ran; else what the rows come from.
    """
    source = about_trace(about, run_of(about)) if isinstance(about, Trace) else about
    colours = palette(st.context.theme.type == "dark")
    view = exports.ExportedView(name, title, source, colours, chart, rows)
    with st.popover(
        words("export.open"), type="tertiary", help=words("export.help"), key=f"export-{name}"
    ):
        for kind in exports.kinds(view):
            make, media = exports.KINDS[kind]
            st.download_button(
                words(f"export.{kind}"),
                data=lambda make=make: make(view),
                file_name=f"{view.stem}.{kind}",
                mime=media,
                on_click="ignore",
                type="tertiary",
                key=f"export-{name}-{kind}",
                width="stretch",
            )


def export_map(
    name: str,
    title: str,
    words: Words,
    trace: Trace,
    *,
    image: bytes,
    about: Mapping[str, Any] | Trace,
    rows: Callable[[], Rows],
) -> None:
    """The same for a map that the page draws from a picture of one dot per pair, or per square of them."""
    axes = words("chart.query_axis"), words("chart.key_axis")
    size = trace.queries, trace.keys
    export(
        name,
        title,
        words,
        about,
        chart=lambda: exports.picture(image, *size, axes),
        rows=rows,
    )


def run_of(trace: Trace) -> str | None:
    """The id under which this visitor has kept, opened or been shown a run; None for another one."""
    state = st.session_state
    kept = state.get("kept", {}).get(id(trace))
    if kept is not None:
        found: str = kept[1]
        return found
    run, opened = state.get("opened", (None, None))
    if opened is not None and opened.result.trace is trace:
        return run
    recording = state.get("presented")
    return recording.id if recording is not None and recording.trace is trace else None


@contextmanager
def title_line() -> Iterator[None]:
    """What is drawn in it stands on one line: a title at its beginning, the control at its end."""
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom", gap="small"
    ):
        yield


def titled(
    name: str,
    title: str,
    words: Words,
    about: Mapping[str, Any] | Trace,
    *,
    anchor: str | None = None,
    chart: Chart | Callable[[], Chart] | None = None,
    rows: Rows | Callable[[], Rows] | None = None,
) -> None:
    """A heading with the control of its view at the end of its line; arguments as of :func:`export`."""
    with title_line():
        st.subheader(title, anchor=anchor or name, width="content")
        export(name, title, words, about, chart=chart, rows=rows)
