"""The timeline draws what was measured: every stretch, each stage in a colour of its own."""

import pytest

from app import text
from app.charts.timeline import stretches, timeline
from saa_core.run.timeline import Stretch, Timeline

SIDES = (
    Timeline("dense", "dense", (Stretch(-1, "rest", 0, 2), Stretch(0, "dense", 2, 5)), 5.0),
    Timeline(
        "saa",
        "native",
        (Stretch(-1, "rest", 0, 2), Stretch(0, "gate", 2, 3), Stretch(0, "kernel", 3, 3.5)),
        3.5,
    ),
)


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize("dark", [False, True])
def test_every_stretch_is_drawn_in_the_colour_of_its_stage(lang, dark):
    words = text.load(lang)
    chart = timeline(SIDES, words, dark).to_dict()
    (rows,) = chart["datasets"].values()
    assert [row["ms"] for row in rows] == [2, 3, 2, 1, 0.5]
    assert {row["side"] for row in rows} == {words("chart.dense"), words("chart.saa")}
    scale = chart["encoding"]["color"]["scale"]
    assert set(scale["domain"]) == {row["stage"] for row in rows}
    assert len(set(scale["range"])) == len(scale["domain"]) == 4


def test_the_rows_of_the_file_are_those_of_the_chart():
    rows = stretches(SIDES, text.load("en"))
    assert rows.ms.sum() == pytest.approx(sum(side.total_ms for side in SIDES))
