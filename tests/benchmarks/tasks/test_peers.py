"""Beside what people deploy: what is counted and timed, and all of it on a tiny table."""

import json

import numpy as np
import pytest

import saa_core as saa
from benchmarks.tasks import peer_process, peer_sides, peers, roofline
from tests.benchmarks.started import start
from tests.export.tiny import make_model

SOME = (peer_sides.DENSE, "ONNX Runtime, dense, bfloat16", "ONNX Runtime, SAA, int8")


def test_sides_take_turns_and_every_sample_is_kept():
    calls = []
    what = {
        name: lambda texts, name=name: calls.append((name, len(texts))) or [0] * len(texts)
        for name in "abc"
    }
    samples = peers.time_in_turns(what, [["x"], ["y", "z"]], rounds=4)
    assert {name: [len(own) for own in rounds] for name, rounds in samples.items()} == {
        name: [2] * 4 for name in "abc"
    }
    turns = [calls[at : at + 3] for at in range(0, len(calls), 3)]
    assert len(turns) == 10, "the warm-up too"
    assert all({name for name, _ in turn} == set("abc") for turn in turns)
    assert len({tuple(name for name, _ in turn) for turn in turns}) > 1, "in changing order"


def test_no_round_begins_after_its_time_but_the_first_few():
    samples = peers.time_in_turns({"a": lambda texts: [0]}, [["x"]], rounds=50, seconds=0)
    assert len(samples["a"]) == peers.ROUNDS


def test_labels_are_counted_in_the_order_of_the_texts():
    texts = ["1 long text", "0", "1 longer text by far", "0 two"]
    dense = peers.label_all(lambda some: [int(text[0]) for text in some], texts)
    assert dense.tolist() == [1, 0, 1, 0]
    found = peers.accuracy(np.zeros(4, int), dense, [1, 0, 1, 1])
    assert (found["accuracy"], found["changed"], found["lost_points"]) == (0.25, 0.5, 50)
    low, high = found["changed_interval"]
    assert 0 < low < 0.5 < high < 1


def test_rows_that_are_there_or_come_too_late_are_not_missing(tmp_path, monkeypatch):
    measured = peers.Measured(tmp_path / "out.json", minutes=10)
    measured.add({"task": "spam", "what": "time", "batch": 1})
    again = peers.Measured(tmp_path / "out.json", minutes=10)
    assert not again.missing(task="spam", batch=1)
    assert again.missing(task="spam", batch=8)
    again.give(0)
    assert not again.missing(task="spam", batch=8)
    again.give(1)
    assert again.missing(task="spam", batch=8)


def test_the_least_time_is_that_of_reading_or_of_computing():
    machine = {"bandwidth_gb_s": 10, "gops": {"float32": 100, "int8": 400}}
    need = {"weights": 10**7, "dense": 10**9, "SAA": 10**8}
    assert roofline.least_ms(machine, need, "dense", "float32") == pytest.approx(10)
    assert roofline.least_ms(machine, need, "SAA", "float32") == pytest.approx(4)
    assert roofline.least_ms(machine, need, "dense", "int8") == pytest.approx(2.5)


def test_the_machine_is_measured():
    found = roofline.measure_machine(megabytes=4, repeats=1)
    assert found["bandwidth_gb_s"] > 0
    assert set(found["gops"]) == set(roofline.BYTES)
    assert all(rate > 0 for rate in found["gops"].values())


def test_what_a_batch_needs_follows_from_its_tokens(toys):
    texts = ["w4 w5 w6 w7 w8 w9 w10 w11", "w50 w60"]
    found = roofline.needs(toys, [texts])
    once = roofline.needs(toys, [texts, texts])
    assert found == once
    assert 0 < found["SAA"] < found["dense"]
    assert found["weights"] == sum(toys.about.weights)


def test_a_side_that_does_not_run_is_left_out_with_the_reason(tmp_path):
    files = peer_sides.Exported("spam", "minilm", tmp_path)
    found, refused = peer_sides.open_sides(files, 1, ["ONNX Runtime, dense, bfloat16"])
    assert not found
    assert "no products in bfloat16" in refused["ONNX Runtime, dense, bfloat16"]


def test_a_process_that_fails_says_how(tmp_path):
    with pytest.raises(RuntimeError, match=r"saa\.json"):
        peer_process.start("ONNX Runtime, SAA, int8", "spam", tmp_path)


def test_an_exported_engine_starts_in_a_process_of_its_own(toys):
    found = peer_process.start("ONNX Runtime, SAA, int8", "toys", toys.folder.parent)
    assert found["by"] == ["saa_core", "onnxruntime"]
    assert 0 < found["seconds"] < 120
    assert 0 < found["mib"] <= found["most_mib"] + 1


def test_texts_are_shared_out_by_length_and_rare_lengths_left_out():
    texts = [str(length) for length in range(1, 300)]
    found = peers.buckets(texts, [*map(int, texts)])
    expected = {16: 16, 32: 16, 64: 32, 128: 64, 256: 171}
    assert {length: len(own) for length, own in found.items()} == expected
    assert peers.buckets(["a"] * 7, [20] * 7) == {}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines") / "toys-int8"  # its name is all that says int8
    return saa.open_engine(saa.export(make_model(), folder), threads=1)


@pytest.mark.long
@pytest.mark.model
def test_peers(tmp_path, monkeypatch, asked_table):
    out, work = tmp_path / "peers.json", tmp_path / "work"
    given = ["--tasks", "questions", "--data", asked_table, "--texts", "12", "--singles", "2"]
    given += ["--batches", "1", "3", "--rounds", "2", "--sides", *SOME]
    given += ["--what", "time", "accuracy", "--work", str(work), "--out", str(out)]
    start("tasks.peers", monkeypatch, *given)
    rows = json.loads(out.read_text())
    assert [row["what"] for row in rows] == ["machine", "time", "time", *["accuracy"] * 3]
    timed, counted = rows[1:3], {row["side"]: row for row in rows[3:]}
    ran = {name for name in SOME if "bfloat16" not in name}
    for row in timed:
        assert set(row["ms"]) == ran
        assert set(row["left_out"]) == set(SOME) - ran
        assert all(ms > 0 for rounds in row["ms"].values() for own in rounds for ms in own)
    assert [[len(own) for own in row["ms"][peer_sides.DENSE]] for row in timed] == [[2, 2], [1, 1]]
    assert all(counted[name]["accuracy"] > 0.5 for name in ran)
    assert counted[peer_sides.DENSE]["changed"] == 0
    assert "left_out" in counted["ONNX Runtime, dense, bfloat16"]
    out.write_text(json.dumps(rows[:-1]))
    made = {file: file.stat().st_mtime_ns for file in work.rglob("*")}
    start("tasks.peers", monkeypatch, *given)
    again = json.loads(out.read_text())
    assert again[:-1] == rows[:-1], "what was measured stays"
    assert again[-1]["accuracy"] == rows[-1]["accuracy"]
    assert {file: file.stat().st_mtime_ns for file in work.rglob("*")} == made
