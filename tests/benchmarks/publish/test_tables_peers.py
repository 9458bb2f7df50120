"""The tables beside what people deploy: who may be the fastest, and what the ratios are."""

import pytest

from benchmarks.publish import publish
from benchmarks.publish import tables_peers as tables
from benchmarks.tasks.peer_sides import DENSE

INT8, OWN, OWN_INT8 = (
    "ONNX Runtime, dense, int8",
    *(f"ONNX Runtime, SAA, {precision}" for precision in ("float32", "int8")),
)
MACHINE = {"bandwidth_gb_s": 10, "gops": {"float32": 100, "bfloat16": 200, "int8": 400}}


def timed(task, batch, length, **ms):
    """ms of one round more than is shown, so that the median is the one named."""
    names = dict(zip(("dense", "int8", "own", "own8", "packed"), SIDES, strict=True))
    samples = {names[key]: [[value], [value], [9 * value]] for key, value in ms.items()}
    needs = {"weights": 10**7, "dense": 10**9, "SAA": 4 * 10**8}
    return {
        "task": task,
        "what": "time",
        "batch": batch,
        "length": length,
        "ms": samples,
        "needs": needs,
        "left_out": {},
    }


SIDES = (DENSE, INT8, OWN, OWN_INT8, tables.PACKED)


def counted(side, **lost):
    return [
        {"what": "accuracy", "side": side, "task": task, "lost_points": points}
        for task, points in lost.items()
    ]


@pytest.fixture
def rows():
    return [
        {"what": "machine", **MACHINE},
        timed("spam", 1, 32, dense=12, int8=3, own=4, own8=2, packed=2.5),
        timed("reviews", 32, 256, dense=1000, int8=600, own=500, own8=300, packed=450),
        *counted(DENSE, spam=0, reviews=0),
        *counted(INT8, spam=0.2, reviews=0.3),
        *counted(OWN, spam=0.1, reviews=0.4),
        *counted(OWN_INT8, spam=-0.2, reviews=0.9),
        {
            "what": "process",
            "task": "spam",
            "side": OWN,
            "starts": [{"seconds": s, "mib": 100, "most_mib": 200} for s in (0.5, 0.7, 3)],
        },
    ]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_against_the_fastest_peer(rows):
    long, short = map(cells, tables.peers_table(rows).splitlines()[2:])
    assert long[:9] == ["reviews", "32", "256", INT8, "600.0", OWN_INT8, "300.0", "2.00", "1.50"]
    assert short[:9] == ["spam", "1", "32", INT8, "3.0", OWN_INT8, "2.0", "1.50", "1.25"]
    assert short[-1] == "2.50 / 1.00", "of the precision that needs least"


def test_who_loses_more_is_not_the_fastest(rows):
    for row in rows:
        if row.get("side") == INT8 and row["task"] == "spam":
            row["lost_points"] = 1.2
        if row.get("side") == OWN_INT8 and row["task"] == "reviews":
            row["lost_points"] = 1.3
    long, short = map(cells, tables.peers_table(rows).splitlines()[2:])
    assert long[3:8] == [DENSE, "1000.0", OWN, "500.0", "2.00"]
    assert short[3:8] == [DENSE, "12.0", OWN, "4.0", "3.00"]


def test_a_peer_that_was_not_counted_may_be_the_fastest(rows):
    known = [row for row in rows if row.get("side") != INT8]
    _, short = map(cells, tables.peers_table(known).splitlines()[2:])
    assert short[3:8] == [INT8, "3.0", OWN_INT8, "2.0", "1.50"]


def test_a_side_of_ours_that_was_not_counted_is_not_shown(rows):
    known = [row for row in rows if row.get("side") != OWN_INT8]
    long, _ = map(cells, tables.peers_table(known).splitlines()[2:])
    assert long[3:8] == [INT8, "600.0", OWN, "500.0", "1.20"]


def test_accuracy_is_shown_as_what_is_lost(rows):
    lines = [cells(line) for line in tables.peers_accuracy_table(rows).splitlines()]
    assert lines[0][1:3] == ["reviews", "spam"]
    assert [OWN_INT8, "-0.9", "+0.2", "-0.35", "yes"] in lines


def test_starts_are_medians(rows):
    assert tables.peers_process_table(rows).splitlines()[-1] == (
        f"| {OWN} | 0.70 s | 100 MiB | 200 MiB |"
    )


def test_rates_of_the_load(rows):
    held = [
        {"what": "load", "side": OWN, "limit_ms": 30.0, "arrivals": "poisson", "rate": rate}
        for rate in (100, 300, 200)
    ]
    line = cells(tables.load_peers_table(held, rows).splitlines()[-1])
    assert line == [OWN, "-", "-", "200", "-", "yes"]


@pytest.mark.parametrize("language", tables.LINE)
def test_the_row_of_the_readme(rows, language):
    head, _, line = tables.peers_line(rows, language).splitlines()
    assert len(cells(head)) == len(cells(line))
    assert cells(line)[1:] == ["1.50", "-", "-", "2.00"]


def test_a_page_gets_its_row_below_the_headline_once(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- headline -->\n| a |\n<!-- end headline -->\n\nMore.\n")
    for line in ("| 1 |", "| 2 |"):
        publish.put_below(page, "peers", line, above="headline")
        text = page.read_text()
        assert text.count("<!-- peers -->") == 1
        assert f"<!-- end headline -->\n\n<!-- peers -->\n{line}\n<!-- end peers -->" in text
    assert text.endswith("\n\nMore.\n")


def test_what_was_not_measured_says_so(rows):
    assert set(publish.peers_tables({}).values()) == {publish.NOT_MEASURED}
    made = publish.peers_tables({"peers": rows})
    assert [name for name, text in made.items() if text == publish.NOT_MEASURED] == ["load_peers"]
