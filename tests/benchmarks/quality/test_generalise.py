"""Kinds of text, and gates that were trained without one: on tiny input; never that they are good."""

import json
import math

import pytest
import torch

import saa_core as saa
from benchmarks.quality import generalise, leave_out
from benchmarks.quality.generalise import at_one_percent
from saa_core.certify import masses
from saa_core.data import corpus
from saa_core.data.corpus import Document
from tests.benchmarks.started import start


@pytest.fixture
def two_kinds(monkeypatch, novel):
    """Halves of a novel as the texts of two kinds."""
    half = len(novel) // 2
    found = [
        Document(kind, split, text, split, kind)
        for kind, text in (("mail", novel[:half]), ("law", novel[half:]))
        for split in ("train", "heldout")
    ]
    monkeypatch.setattr(corpus, "documents", lambda *_, **__: found)


def test_every_kind_is_measured_once(tmp_path, monkeypatch, two_kinds, smollm2):
    out = tmp_path / "generalise.json"
    arguments = ["--kinds", "law", "mail", "--left-out", "law", "--lengths", "100"]
    arguments += ["--masses", "0.6", "0.9", "--windows", "2", "--out", str(out)]
    start("quality.generalise", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    assert [(row["kind"], row["mass"]) for row in rows] == [
        (kind, mass) for kind in ("law", "mail") for mass in (0.6, 0.9)
    ]
    for row in rows:
        assert row["left_out"] == (row["kind"] == "law")
        assert len(row["increases"]) == 2
        mean, low, high = generalise.increase(row)
        assert low <= mean <= high
    assert rows[0]["density"] < rows[1]["density"]
    assert out.with_suffix(".svg").is_file()
    written = out.read_bytes()
    start("quality.generalise", monkeypatch, *arguments)
    assert out.read_bytes() == written, "nothing is measured twice"
    start("quality.generalise", monkeypatch, *arguments, "--rows", str(tmp_path / "rows.json"))
    assert {row.kind for row in masses.read_rows(tmp_path / "rows.json")} == {"law"}


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_a_set_of_gates_learns_nothing_from_the_kind_that_it_leaves_out(
    tmp_path, monkeypatch, two_kinds, smollm2
):
    folder, out = tmp_path / "sets", tmp_path / "leave_out.json"
    common = ["--kinds", "mail", "law", "--folder", str(folder), "--lengths", "64", "--rows", "32"]
    start("quality.leave_out", monkeypatch, "train", *common, "--steps", "1", "--rate", "0.9")
    shipped = [gate.state_dict() for gate in smollm2.gates]

    def moved(name: str) -> bool:
        gates = saa.load("smollm2", gates=folder / name, device="cpu").gates
        return any(
            not torch.allclose(value, before[key], atol=1e-3)
            for gate, before in zip(gates, shipped, strict=True)
            for key, value in gate.state_dict().items()
        )

    first = next(corpus.draw_windows({"law": range(99), "mail": range(99)}, [64], 0))[0]
    other = {"law": "mail", "mail": "law"}[first]
    assert (moved(leave_out.EVERY), moved(first), moved(other)) == (True, False, True)
    arguments = ["measure", *common, "--masses", "0.9", "--windows", "2", "--out", str(out)]
    start("quality.leave_out", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    assert [(row["kind"], row["gates"]) for row in rows] == [
        (kind, name) for kind in ("mail", "law") for name in (leave_out.EVERY, kind)
    ]


def test_the_density_at_one_percent_lies_between_two_points():
    place = {"kind": "law", "length": 1024, "block": [32, 16], "mass": 0.9}
    points = ((0.2, 2.0), (0.4, 0.0), (0.6, -0.1))
    rows = [
        place | {"density": density, "increases": 2 * [math.log1p(more / 100)]}
        for density, more in points
    ]
    assert at_one_percent(rows) == pytest.approx(0.3)
    assert at_one_percent(rows[1:]) is None
    assert generalise.windows_at(2048) == 16
    assert generalise.windows_at(4096) == 8
