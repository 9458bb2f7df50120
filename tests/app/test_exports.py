"""Views as files: each is opened again and holds what the page shows; and every page offers them."""

import io
import json
import socket
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app import text
from app.charts.head import head_grid
from app.charts.map_picture import overview_png
from app.charts.pair import frame_around, window
from app.charts.palette import DARK, LIGHT, rgb
from app.export import formats as exports
from app.export.drawing import draw
from app.export.formats import ExportedView
from app.export.provenance import about_trace
from benchmarks.synthetic import synthetic
from saa_core.explain.decisions import decisions
from saa_core.store import Store
from tests.app.recorded import no_model
from tests.app.test_app import HOSTILE, TEXT, app
from tests.app.test_dataset import audited, dataset, store
from tests.app.test_present_page import present
from tests.app.test_traces_page import traces

__all__ = ["audited", "store"]
NASTY = HOSTILE + "\x08 朝日 ]]>&"
"""Markup, Markdown, a sign that XML forbids, Japanese."""


def hostile_view(**changes: object) -> ExportedView:
    """A window of a trace all of whose words are hostile."""
    trace = synthetic(3, tokens=4)
    trace = replace(
        trace,
        text=NASTY * 4,
        offsets=tuple((at * len(NASTY), (at + 1) * len(NASTY)) for at in range(4)),
        tokens=(NASTY,) * 4,
        model=replace(trace.model, name=NASTY),
    )
    words = text.load("ja")
    frame = frame_around(0, 0, 4, 4)
    chart = window(trace, 1, 2, frame, (0, 0), words, True)
    about = about_trace(trace, "20260101T000000Z-12345678")
    return replace(ExportedView("window", NASTY, about, DARK, chart), **changes)


def test_a_picture_shows_the_chart_with_its_title_on_the_ground_of_the_theme() -> None:
    view = hostile_view()
    picture = exports.png(view)
    assert picture.startswith(b"\x89PNG\r\n")
    shown = Image.open(io.BytesIO(picture)).convert("RGB")
    assert min(shown.size) > 1000
    assert shown.getpixel((2, 2)) == tuple(rgb(DARK.paper).astype(int))
    assert exports.png(replace(view, title="another")) != picture


def test_a_drawing_is_xml_and_holds_hostile_words_as_text_only() -> None:
    drawn = exports.svg(hostile_view())
    root = ElementTree.fromstring(drawn)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "rect", "path", "text", "tspan", "line", "defs", "clipPath"}
    said = "".join(root.itertext())
    assert "<script>alert(1)</script>" in said
    assert "朝日" in said
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not {name for name in attributes if name.startswith("on") or name.endswith("href")}


def test_parquet_and_json_hold_the_same_rows_and_say_what_they_are() -> None:
    trace = synthetic(1, tokens=6)
    words = text.load("en")
    chart = head_grid(trace, "density", (1, 1), words, False)
    view = ExportedView("heads", "Heads", about_trace(trace), LIGHT, chart)
    table = pq.read_table(io.BytesIO(exports.parquet(view)))
    assert table["kept"].to_pylist() == pytest.approx(trace.density.ravel().tolist())
    assert "chosen" not in table.column_names, "where a visitor has clicked is no data"
    found = json.loads(exports.as_json(view))
    assert found["rows"] == table.to_pylist()
    assert found["columns"]["kept"] == {
        "title": words("chart.density"),
        "unit": "share, 1 is all",
    }
    assert found["from"]["policy"] == str(trace.policy)
    assert found["from"]["versions"] == dict(trace.versions)
    assert json.loads(table.schema.metadata[b"saa"])["from"] == found["from"]


def test_json_has_null_where_there_is_no_number() -> None:
    rows = pd.DataFrame({"a": [1.0, float("inf"), float("nan")], "b": [[float("nan")], [], [2.0]]})
    view = ExportedView("t", "T", {}, LIGHT, rows=rows)
    found = json.loads(exports.as_json(view))["rows"]
    assert [row["a"] for row in found] == [1.0, None, None]
    assert [row["b"] for row in found] == [[None], [], [2.0]]
    assert exports.kinds(view) == ["json", "parquet"]


def test_json_refers_to_parquet_for_very_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MOST_IN_JSON", 2)
    view = ExportedView("t", "T", {}, LIGHT, rows=pd.DataFrame({"a": [1, 2, 3]}))
    found = json.loads(exports.as_json(view))
    assert found["rows"] is None
    assert "Parquet" in found["rows_are_in"]
    assert pq.read_table(io.BytesIO(exports.parquet(view))).num_rows == 3


def test_a_map_has_its_pixels_at_the_places_of_its_pairs() -> None:
    trace = synthetic(2, tokens=16)
    image = overview_png(trace, 0, 0, False)
    chart = exports.picture(image, 16, 16, ("queries", "keys"))
    shown = np.array(
        Image.open(io.BytesIO(exports.png(ExportedView("map", "", {}, LIGHT, chart)))).convert(
            "RGB"
        )
    )
    kept = np.argwhere((shown == rgb(LIGHT.kept)).all(-1))
    always = np.argwhere((shown == rgb(LIGHT.kept_always)).all(-1))
    (top, left), (bottom, right) = (
        np.vstack([kept, always]).min(0),
        np.vstack([kept, always]).max(0),
    )
    cell = (bottom - top + 1) / 16
    assert cell == pytest.approx((right - left + 1) / 16)
    for query, key in ((15, 0), *np.argwhere(trace.reason_map(0, 0) == 2)[:5]):
        place = round(top + (query + 0.5) * cell), round(left + (key + 0.5) * cell)
        assert tuple(shown[place]) in {
            tuple(rgb(colour).astype(int)) for colour in (LIGHT.kept, LIGHT.kept_always)
        }


@pytest.mark.parametrize("run", [None, "../../etc/passwd", "a/b\\c <x>.saa", "朝 1"])
def test_the_name_of_a_file_is_a_name(run: str | None) -> None:
    stem = ExportedView("map", "Map", {"run": run}, LIGHT).stem
    assert stem.startswith("saa-map")
    assert not set(stem) & set("/\\<> :")
    assert ".." not in stem.removeprefix("saa-map-")[:2]


def test_what_breaks_the_drawing_library_breaks_no_page() -> None:
    """The library ends its process at such a text; ours goes on and says so."""
    chart = json.dumps({"mark": "bar", "data": {"values": [{"a": 1}]}, "title": "a\bb"})
    with pytest.raises(saa.SAAError, match="png cannot be drawn"):
        draw(chart, "png")


def test_nothing_is_fetched_for_a_picture() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/data.json"
        with pytest.raises(saa.SAAError):
            draw(json.dumps({"mark": "bar", "data": {"url": url}}), "svg")
        with pytest.raises(TimeoutError):
            listener.accept()


def offered(at: AppTest) -> dict[str, set[str]]:
    """Kinds of files by view, from the controls on the page."""
    found: dict[str, set[str]] = {}
    for button in at.get("download_button"):
        if (button.key or "").startswith("export-"):
            _, *name, kind = button.key.split("-")
            found.setdefault("-".join(name), set()).add(kind)
    return found


ALL, DATA = {"png", "svg", "json", "parquet"}, {"json", "parquet"}


def test_every_view_of_a_stored_run_can_be_taken_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_model(monkeypatch)
    run = store.add(synthetic(0, label="positive"))
    at = app(trace=run).run()
    assert not at.exception
    views = offered(at)
    assert views == {"tokens": DATA, "window": ALL, "heads": ALL, "map": ALL, "measured": DATA} | (
        {"labels": ALL}
    )
    at.switch_page("views/gate_map.py").run()
    assert offered(at) == {"window": ALL, "heads": ALL, "map": ALL, "arcs": ALL}


def test_every_view_of_the_store_can_be_taken_away(
    audited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_model(monkeypatch)
    assert offered(dataset()) == {"slices": ALL, "spread": ALL, "texts": DATA}
    assert offered(traces()) == {"runs": DATA}


def test_every_view_of_a_presentation_can_be_taken_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_model(monkeypatch)
    views = {}
    for step in range(1, 9):
        views |= offered(present(deck="engineers", step=str(step)))
    assert {"window", "heads", "map"} <= set(views)


@pytest.mark.model
@pytest.mark.parametrize(
    ("page", "address", "views"),
    [
        ("compare", {"text": TEXT, "b_text": TEXT.replace("calm", "rough"), "b_how": "saa"},
         {"figures": DATA, "output": ALL, "moved-most": DATA, "window": ALL, "heads": ALL,
          "map": ALL, "flips": DATA, "margins": ALL}),
        ("latency", {}, {"speeds": ALL, "stages": ALL, "lengths": DATA}),
        ("trust", {}, {"reliability": ALL, "head-errors": ALL}),
        ("cost", {"c_tokens": "2048"}, {"result": DATA, "monthly": ALL, "lengths": DATA}),
    ],
)  # fmt: skip
def test_every_view_of_a_page_with_a_model_can_be_taken_away(
    page: str, address: dict[str, str], views: dict[str, set[str]]
) -> None:
    at = app(**address)
    at.switch_page(f"views/{page}.py")
    at.run()
    assert not at.exception
    assert offered(at) == views


def test_decisions_are_those_of_the_maps() -> None:
    trace = synthetic(5, tokens=9)
    table = decisions(trace, 3, 1)
    q, k = table["query"].to_numpy(), table["key"].to_numpy()
    assert len(q) == int(trace.allowed(3).sum())
    assert (table["kept"].to_numpy() == trace.keep_map(3, 1)[q, k]).all()
    assert np.allclose(table["score"].to_numpy(), trace.score_map(3, 1)[q, k])
    assert isinstance(table, pa.Table)
