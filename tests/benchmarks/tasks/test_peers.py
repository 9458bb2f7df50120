"""Beside what people deploy: what is counted and timed, and all of it on a tiny table."""

import json

import pytest

from benchmarks.tasks import peers
from tests.benchmarks.started import start

NAMES = [
    *("PyTorch, dense", "PyTorch, SAA"),
    *(
        f"ONNX Runtime, {kind}, {precision}"
        for precision in ("float32", "int8")
        for kind in ("dense", "packed", "SAA")
    ),
]


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


def test_labels_are_counted_in_the_order_of_the_texts():
    texts = ["1 long text", "0", "1 longer text by far", "0 two"]
    right = {"first": lambda some: [int(text[0]) for text in some]}
    found = peers.accuracy(right | {"zero": lambda some: [0] * len(some)}, texts, [1, 0, 1, 1])
    assert (found["first"]["accuracy"], found["first"]["changed"]) == (0.75, 0.0)
    assert (found["zero"]["accuracy"], found["zero"]["changed"]) == (0.25, 0.5)
    low, high = found["zero"]["changed_interval"]
    assert 0 < low < 0.5 < high < 1


def test_texts_are_shared_out_by_length_and_rare_lengths_left_out():
    texts = [str(length) for length in range(1, 300)]
    found = peers.buckets(texts, [*map(int, texts)])
    expected = {16: 16, 32: 16, 64: 32, 128: 64, 256: 171}
    assert {length: len(own) for length, own in found.items()} == expected
    assert peers.buckets(["a"] * 7, [20] * 7) == {}


@pytest.mark.long
@pytest.mark.model
def test_peers(tmp_path, monkeypatch, asked_table):
    out, work = tmp_path / "peers.json", tmp_path / "work"
    given = ["--tasks", "questions", "--data", asked_table, "--texts", "12", "--singles", "2"]
    given += ["--batches", "1", "3", "--count", "1", "--rounds", "2"]
    given += ["--work", str(work), "--out", str(out)]
    start("tasks.peers", monkeypatch, *given)
    accuracy, *timed = rows = json.loads(out.read_text())
    assert list(accuracy["sides"]) == NAMES
    assert all(side["accuracy"] > 0.5 for side in accuracy["sides"].values())
    assert accuracy["sides"]["ONNX Runtime, dense, float32"]["changed"] == 0
    assert [(row["batch"], len(row["ms"])) for row in timed] == [(1, len(NAMES)), (3, len(NAMES))]
    for row in timed:
        assert all(ms > 0 for rounds in row["ms"].values() for own in rounds for ms in own)
        assert [len(own) for own in row["ms"]["PyTorch, SAA"]] == [
            2 if row["batch"] == 1 else 1
        ] * 2
    out.write_text(json.dumps(rows[:-1]))
    made = {file: file.stat().st_mtime_ns for file in work.rglob("*")}
    start("tasks.peers", monkeypatch, *given)
    again = json.loads(out.read_text())
    assert again[:-1] == rows[:-1], "what was measured stays"
    assert (again[-1]["batch"], again[-1]["length"]) == (rows[-1]["batch"], rows[-1]["length"])
    assert {file: file.stat().st_mtime_ns for file in work.rglob("*")} == made
