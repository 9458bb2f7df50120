"""The frontier of methods and the sizes of blocks, on tiny input; and what is read off the curves."""

import json

import pytest

from benchmarks.publish.tables_quality import cost_at, equal_density_table, frontier_table, needed
from benchmarks.quality.blocks import BLOCKS
from benchmarks.quality.frontier import AIMS, curve
from tests.benchmarks.started import start


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_frontier(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "frontier.json"
    text.write_text(novel[:30_000], encoding="utf-8")
    arguments = ["--lengths", "200", "--windows", "1", "--texts", str(text), "--out", str(out)]
    start("quality.frontier", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    assert {(row["method"], row["aim"]) for row in rows} == {
        (method, aim)
        for method, aims in AIMS.items()
        for aim in aims
        if method not in ("SAA, joint", "adapter alone")
    }
    best = {}
    for row in rows:
        assert row["lo"] <= row["ppl_increase_pct"] <= row["hi"]
        assert 0 < row["density"] <= 1
        if row["density"] < 0.75:
            best[row["method"]] = min(best.get(row["method"], 99), row["ppl_increase_pct"])
    assert best["oracle"] < best["random"]
    written = out.read_bytes()
    start("quality.frontier", monkeypatch, *arguments, "--minutes", "0.01")
    assert out.read_bytes() == written, "nothing is measured twice"


@pytest.mark.long  # one smoke run of this group is in the test tier
def test_blocks(tmp_path, monkeypatch, novel, smollm2):
    text, out = tmp_path / "text.txt", tmp_path / "blocks.json"
    text.write_text(novel[:30_000], encoding="utf-8")
    arguments = ["--lengths", "300", "--masses", "0.6", "0.9", "--windows", "1", "--repeats", "1"]
    arguments += ["--source", str(text), "--out", str(out)]
    start("quality.blocks", monkeypatch, *arguments)
    rows = json.loads(out.read_text())
    names = [f"{queries} x {keys}" for queries, keys in BLOCKS]
    assert [row["block"] for row in rows] == [name for name in names for _ in range(2)]
    for sparse, dense in zip(rows[::2], rows[1::2], strict=True):
        assert sparse["density"] < dense["density"] <= 1
        assert sparse["lo"] <= sparse["ppl_increase_pct"] <= sparse["hi"]
        assert len(sparse["attention_ms"]["saa"]) == 1
    assert rows[0]["density"] < rows[-2]["density"], "fine blocks need fewer pairs"
    written = out.read_bytes()
    start("quality.blocks", monkeypatch, *arguments)
    assert out.read_bytes() == written, "nothing is measured twice"


def test_what_is_published_lies_between_measured_points(monkeypatch):
    rows = [
        {"method": "oracle", "length": 1024, "aim": aim, "density": density}
        | {"ppl_increase_pct": increase, "text": text}
        for aim, density, increases in [(0.9, 0.4, (0.1, 0.3)), (0.8, 0.2, (1.0, 3.0))]
        for text, increase in zip("ab", increases, strict=True)
    ]
    points = curve(rows, "oracle", 1024)
    assert points == [(0.4, pytest.approx(0.2)), (0.2, pytest.approx(2.0))]
    assert needed(points, 1.1) == "0.30"
    assert needed(points, 0.1) == "over 0.40"
    assert needed(points, 2.5) == "under 0.20"
    assert "| oracle | 0.31 |" in frontier_table(rows)
    assert cost_at(points, 0.3) == pytest.approx(1.1)
    assert cost_at(points, 0.5) is None


def test_methods_are_compared_at_the_density_at_which_the_joint_model_costs_one_percent(
    monkeypatch,
):
    increases = {"SAA, joint": (0.0, 2.0), "random": (8.0, 12.0), "mean keys": (1.0, 3.0)}
    rows = [
        {"method": method, "length": 1024, "aim": aim, "density": density}
        | {"ppl_increase_pct": increase, "text": "a"}
        for method, both in increases.items()
        for aim, density, increase in zip((0.9, 0.8), (0.4, 0.2), both, strict=True)
    ]
    (line,) = equal_density_table(rows).splitlines()[2:]
    assert line == "| 1,024 | 0.30 | +1.00 % | – | – | +2.00 % (mean keys) | 0.50 x |"
