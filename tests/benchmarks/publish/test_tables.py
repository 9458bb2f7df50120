"""Every table that is published, from the measured results in the repository: whole, and with a figure in every row."""

import json
import re

import pytest

import saa_core as saa
from benchmarks.publish import publish
from benchmarks.publish.tables_kinds import kinds_table, one_percent_table, retrieval_table
from benchmarks.publish.tables_quality import (
    BY_LANGUAGE,
    encoder_table,
    equal_density_table,
    frontier_table,
    quality_table,
)
from benchmarks.publish.tables_tasks import (
    japanese_table,
    seeds_table,
    shift_table,
    understanding_table,
)
from benchmarks.publish.tables_time import app_table, latency_table, prefill_table
from benchmarks.publish.tables_trust import far_table, promise_table, trust_table, tune_table
from benchmarks.tasks.understanding import shipped_seeds
from saa_core.gates.defaults import MassEntry, MassTable

ROOT = publish.ROOT


def timings(rows):
    return [saa.Timing(**row) for row in rows]


TABLES = {
    "quality": quality_table,
    "quality_joint": quality_table,
    "encoder": encoder_table,
    "encoder_e5": lambda rows: encoder_table(rows, BY_LANGUAGE),
    "latency": lambda rows: latency_table(timings(rows)),
    "gpu": lambda rows: latency_table(timings(rows)),
    "frontier": frontier_table,
    "frontier, at equal density": equal_density_table,
    "retrieval": retrieval_table,
    "generalise": lambda rows: kinds_table(rows, (0.91, 0.94)),
    "generalise, at 1 %": one_percent_table,
    "prefill": prefill_table,
    "prefill_xeon": prefill_table,
    "understanding": lambda rows: understanding_table(rows, shipped_seeds()),
    "understanding, seeds": seeds_table,
    "understanding, other texts": shift_table,
    "japanese": japanese_table,
    "trust": trust_table,
    "far": far_table,
    "far_e5": far_table,
    "promise": promise_table,
    "tune": tune_table,
}


def result(name):
    return json.loads((publish.RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", TABLES)
def test_a_measured_result_makes_a_whole_table(name):
    whole(TABLES[name](result(name.partition(",")[0])))


def test_the_app_is_measured_in_two_results():
    whole(app_table(result("ui"), result("store")))


def whole(table):
    head, line, *rows = table.splitlines()
    columns = head.count("|")
    assert set(line) <= set("|-: ")
    assert rows
    for row in rows:
        assert row.count("|") == columns, row
        assert re.search(r"\d", row.split("|", 2)[2]), row
        assert not re.search(r"\b(nan|inf|None)\b", row), row


def test_times_of_the_joint_model_are_those_that_were_measured():
    rows = [row for row in result("prefill") if row["dtype"] == "float32"]
    found = publish.prefill_timings(result("prefill"))
    assert [timing.length for timing in found[::2]] == [row["length"] for row in rows]
    for dense, sparse, row in zip(found[::2], found[1::2], rows, strict=True):
        assert (dense.name, sparse.name) == ("dense", f"saa {row['policy']}")
        assert sparse.ratio(dense)[1] == pytest.approx(row["prefill_ratio"])
    shipped = json.loads((ROOT / "assets/adapters/smollm2/saa-joint/gates/gates.json").read_text())
    assert timings(shipped["evaluation"]["timings"]) == found


def test_a_default_that_follows_the_length_stays_as_it_was_calibrated(tmp_path):
    table = MassTable((MassEntry(512, (1, 1), 0.9), MassEntry(1024, (32, 16), 0.8)))
    about = {"policy": {"mass": None, "budget": None}, "defaults": table.as_dict()}
    (tmp_path / "gates.json").write_text(json.dumps(about))
    rows = [
        {"length": length, "block": list(block), "mass": mass, "ppl_increase_pct": 0.1}
        for length, block in ((512, (1, 1)), (1024, (32, 16)))
        for mass in (0.7, 0.8, 0.9)
    ]
    assert publish.publish_gates(tmp_path, rows, "command") == 0.8
    written = json.loads((tmp_path / "gates.json").read_text())
    assert written["policy"]["mass"] is None
    shown = [(row["length"], row["mass"]) for row in written["evaluation"]["quality"]]
    assert shown == [(512, 0.9), (1024, 0.8)]
