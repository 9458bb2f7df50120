"""One view of a page as a file: PNG, SVG, JSON, Parquet. Pure: no streamlit, no request to anywhere.

A text of a person's stays a text in a picture. JSON and Parquet hold the rows, what each column is, and
where they come from (in Parquet under the key ``saa`` of the schema's metadata).
"""

import base64
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from app.charts.palette import Palette
from app.export.drawing import draw

FORMAT = 1
MOST_IN_JSON = 200_000
"""Rows beyond which JSON refers to the Parquet file."""
FONT = "Noto Sans, Noto Sans CJK JP, Helvetica, Arial, sans-serif"
"""Latin in a Latin face, Japanese in one that has it."""
WIDTH = 640
"""Points; of a chart that fills its column on the page."""
LONGEST_TITLE = 110
NO_SIGN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What a text may hold and no drawing can."""
CURSOR = "chosen"
"""A chart's column that says what a visitor has clicked: nothing of the data."""

Rows = pd.DataFrame | pa.Table
Chart = alt.Chart | alt.LayerChart


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedView:
    """What a page shows in one place.

    Args:
        name: of the files: letters, digits and hyphens.
        title: as the page calls it.
        about: where it comes from, as of provenance.py; JSON values.
        colours: of the theme that the chart was made for.
        chart: None for a table; made when it is asked for, if callable.
        rows: None takes the rows that the chart was made of; made when they are asked for, if callable.
    """

    name: str
    title: str
    about: Mapping[str, Any]
    colours: Palette
    chart: Chart | Callable[[], Chart] | None = None
    rows: Rows | Callable[[], Rows] | None = None

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        run = re.sub(r"[^\w.-]+", "_", str(self.about.get("run") or ""))[:60].strip("._")
        return f"saa-{self.name}-{run}" if run else f"saa-{self.name}"


def png(view: ExportedView) -> bytes:
    """The chart as a picture. Raises SAAError; see drawing.py."""
    return draw(_specification(view), "png")


def svg(view: ExportedView) -> bytes:
    """The chart as a drawing without scripts. Raises SAAError."""
    return draw(_specification(view), "svg")


def parquet(view: ExportedView) -> bytes:
    """The rows."""
    table = _rows(view)
    about = json.dumps(_about(view, table), ensure_ascii=False, default=str)
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"saa": about.encode()}), out, compression="zstd")
    return out.getvalue()


def as_json(view: ExportedView) -> bytes:
    """The rows, what their columns are and where they come from."""
    table = _rows(view)
    found = _about(view, table)
    if table.num_rows > MOST_IN_JSON:
        found |= {"rows": None, "rows_are_in": "the Parquet file of this view"}
    else:
        found |= {"rows": _plain(table.to_pylist())}
    return json.dumps(found, ensure_ascii=False, indent=1, default=str, allow_nan=False).encode()


KINDS: dict[str, tuple[Callable[[ExportedView], bytes], str]] = {
    "png": (png, "image/png"),
    "svg": (svg, "image/svg+xml"),
    "json": (as_json, "application/json"),
    "parquet": (parquet, "application/vnd.apache.parquet"),
}
"""How a file is made, and its media type, by ending."""


def kinds(view: ExportedView) -> list[str]:
    """The endings that a view has: a table has no picture."""
    return [kind for kind in KINDS if view.chart is not None or kind not in ("png", "svg")]


def picture(image: bytes, queries: int, keys: int, axes: tuple[str, str]) -> Chart:
    """A map that the page draws as a picture, as a chart with axes.

    Args:
        image: PNG of the map, one dot per pair or per square of pairs.
        axes: titles of queries and keys.
    """
    dots = Image.open(io.BytesIO(image))
    times = -(
        -2 * WIDTH // max(dots.size)
    )  # large squares, which no renderer smooths into each other
    out = io.BytesIO()
    dots.resize((dots.width * times, dots.height * times), Image.Resampling.NEAREST).save(
        out, "PNG"
    )
    place = {"q": 0, "q_end": queries, "k": 0, "k_end": keys}
    place["url"] = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    side = alt.Axis(grid=False, tickMinStep=1, format="d")
    return (
        alt.Chart(pd.DataFrame([place]))
        .mark_image(aspect=False)
        .encode(
            x=alt.X("k:Q", title=axes[1], axis=side, scale=alt.Scale(domain=[0, keys], nice=False)),
            x2="k_end:Q",
            y=alt.Y(
                "q:Q",
                title=axes[0],
                axis=side,
                scale=alt.Scale(domain=[0, queries], nice=False, reverse=True),
            ),
            y2="q_end:Q",
            url="url:N",
        )
        .properties(width=WIDTH, height=round(WIDTH * queries / keys))
    )


def _specification(view: ExportedView) -> str:
    """The chart as Vega-Lite, with a title, a ground and a font; interaction is left out."""
    found = _chart(view).to_dict()
    found.setdefault("width", WIDTH)
    if found["width"] == "container":
        found["width"] = WIDTH
    about, ink = view.about, view.colours.ink
    below = [about.get("run"), about.get("model"), about.get("policy")]
    found["title"] = {
        "text": view.title[:LONGEST_TITLE],
        "subtitle": " · ".join(str(part) for part in below if part)[:LONGEST_TITLE],
        "anchor": "start",
        "color": ink,
        "subtitleColor": ink,
    }
    found["background"] = view.colours.paper
    words = {"labelColor": ink, "titleColor": ink}
    found["config"] = found.get("config", {}) | {
        "font": FONT,
        "padding": 12,
        "view": {"stroke": None},
        "axis": words | {"tickColor": ink, "domainColor": ink, "gridOpacity": 0.4},
        "legend": words,
    }
    return json.dumps(_drawable(found), default=str)


def _drawable(value: Any) -> Any:
    """The same with a mark in place of what no drawing can hold."""
    if isinstance(value, str):
        return NO_SIGN.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {name: _drawable(part) for name, part in value.items()}
    return [_drawable(part) for part in value] if isinstance(value, list) else value


def _chart(view: ExportedView) -> Chart:
    assert view.chart is not None
    return view.chart() if callable(view.chart) else view.chart


def _rows(view: ExportedView) -> pa.Table:
    rows = view.rows
    if rows is None:
        rows = rows_of(_chart(view))
    elif callable(rows):
        rows = rows()
    if isinstance(rows, pa.Table):
        return rows
    return pa.Table.from_pandas(rows, preserve_index=False)


def rows_of(chart: Chart) -> pd.DataFrame:
    """The rows that a chart was made of; of layers those with most columns, the others being marks."""
    parts = (chart, *getattr(chart, "layer", ()))
    frames = [part.data for part in parts if isinstance(part.data, pd.DataFrame)]
    found = max(frames, key=lambda frame: len(frame.columns))
    return found.sort_index().drop(columns=CURSOR, errors="ignore")


def _about(view: ExportedView, table: pa.Table) -> dict[str, Any]:
    known = {} if view.chart is None else columns(_chart(view))
    for field in table.schema:
        if field.metadata:
            known[field.name] = {
                key.decode(): value.decode() for key, value in field.metadata.items()
            }
    return {
        "saa_view": FORMAT,
        "view": view.name,
        "title": view.title,
        "from": dict(view.about),
        "columns": {name: known.get(name, {"title": name}) for name in table.column_names},
    }


def columns(chart: Chart) -> dict[str, dict[str, str]]:
    """What the columns of a chart are, as its own axes and tooltips call them; shares are marked."""
    found: dict[str, dict[str, str]] = {}
    for channel in _channels(chart.to_dict()):
        title, form = channel.get("title"), channel.get("format") or ""
        if isinstance(channel.get("axis"), dict):
            form = form or channel["axis"].get("format") or ""
        entry = {"title": str(title)} if title else {}
        entry |= {"unit": "share, 1 is all"} if "%" in form else {}
        if entry:
            found[channel["field"]] = entry | found.get(channel["field"], {})
    return {name: {"title": name} | entry for name, entry in found.items()}


def _channels(node: object) -> Iterator[dict[str, Any]]:
    """Every channel of every encoding that shows a column."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "encoding":
                for channel in value.values():
                    each = channel if isinstance(channel, list) else [channel]
                    yield from (one for one in each if isinstance(one, dict) and "field" in one)
            elif name != "datasets":
                yield from _channels(value)
    elif isinstance(node, list):
        for value in node:
            yield from _channels(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it: what is no number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
