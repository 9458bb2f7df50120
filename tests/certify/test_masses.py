"""The default mass by length, chosen from measured rows."""

import json
import math
import random
import statistics

import pytest

import saa_core as saa
from saa_core.bounds import student_interval, student_quantile
from saa_core.certify.masses import MassRow, choose_masses, latest, measure_masses
from saa_core.cli.main import main as cli

KINDS = ("mails", "fiction")


def row(mass: float, cost: float, kind: str = "mails", **changes: object) -> MassRow:
    """A mass that costs about so many percent."""
    increases = tuple(math.log1p(cost / 100 + noise) for noise in (-0.001, 0.0, 0.001))
    return MassRow(
        **{"kind": kind, "length": 1024, "block": (32, 16)} | changes,
        mass=mass,
        increases=increases,
    )


def rows(costs: dict[float, float], **changes: object) -> list[MassRow]:
    return [row(mass, cost, kind, **changes) for mass, cost in costs.items() for kind in KINDS]


def chosen(found: list[MassRow], **changes: object) -> dict[tuple[int, tuple[int, int]], float]:
    return {(e.length, e.block): e.mass for e in choose_masses(found, **changes).entries}


def test_the_least_mass_whose_upper_end_is_within_the_limit_is_chosen():
    high = row(0.9, 0.7).interval[1]
    assert 0.0092 < high < 0.0097, "the interval and not the mean decides"
    found = rows({0.95: 0.3, 0.9: 0.7, 0.87: 0.9, 0.8: 2.0})
    assert chosen(found) == {(1024, (32, 16)): 0.9}
    assert chosen(found, limit=0.02) == {(1024, (32, 16)): 0.87}


def test_every_kind_has_a_say():
    found = [*rows({0.95: 0.3, 0.9: 0.5}), row(0.95, 0.4, "code"), row(0.9, 3.0, "code")]
    assert chosen(found) == {(1024, (32, 16)): 0.95}
    with pytest.raises(saa.PolicyError, match=r"mass 0.87 at 1024 .*: code"):
        choose_masses(found + rows({0.87: 0.1}))


def test_a_lucky_mass_below_one_that_fails_is_not_taken():
    assert chosen(rows({0.95: 0.3, 0.9: 1.4, 0.87: 0.2})) == {(1024, (32, 16)): 0.95}


def test_where_nothing_holds_everything_is_kept():
    assert chosen(rows({0.95: 3.0, 0.99: 2.0})) == {(1024, (32, 16)): 1.0}


def test_lengths_and_blocks_are_chosen_apart():
    found = rows({0.95: 0.1, 0.8: 0.2}) + rows({0.95: 0.1, 0.8: 2.0}, block=(128, 64))
    found += rows({0.95: 2.0, 0.99: 0.1}, length=512, block=(1, 1))
    assert chosen(found) == {
        (1024, (32, 16)): 0.8,
        (1024, (128, 64)): 0.95,
        (512, (1, 1)): 0.99,
    }
    table = choose_masses(found, about={"command": "saa masses"})
    assert table.mass(300, (1, 1)) == 0.99
    assert table.about["command"] == "saa masses"
    with pytest.raises(saa.PolicyError, match="rows=0"):
        choose_masses([])


def test_the_last_of_two_measurements_counts():
    assert chosen(latest([*rows({0.9: 5.0}), *rows({0.9: 0.1})])) == {(1024, (32, 16)): 0.9}


def test_students_interval_holds_the_mean_as_often_as_it_says():
    assert student_quantile(0.975, 5) == pytest.approx(2.5706, abs=1e-4)
    assert student_quantile(0.95, 2) == pytest.approx(2.9200, abs=1e-4)
    draw = random.Random(0)
    held = [
        low <= 1.0 <= high
        for low, high in (
            student_interval([draw.gauss(1.0, 0.5) for _ in range(6)]) for _ in range(2000)
        )
    ]
    assert statistics.fmean(held) == pytest.approx(0.95, abs=0.015)


@pytest.mark.model
def test_the_command_stores_the_default_with_the_gates(tmp_path, novel, capsys):
    text, rows_file, out = tmp_path / "novel.txt", tmp_path / "rows.json", tmp_path / "gates"
    text.write_text("\n".join(novel[:60_000].splitlines()), "utf-8")
    command = [
        "masses",
        "--model",
        "smollm2",
        "--data",
        str(text),
        "--lengths",
        "64",
        "--windows",
        "3",
    ]
    command += ["--masses", "0.99", "0.5", "--limit", "0.2", "--rows", str(rows_file)]
    assert cli([*command, "--out", str(out)]) == 0
    assert "1x1" in capsys.readouterr().out
    measured = json.loads(rows_file.read_text())
    assert {(each["mass"], each["length"], tuple(each["block"])) for each in measured} == {
        (0.99, 64, (1, 1)),
        (0.5, 64, (1, 1)),
    }
    model = saa.load("smollm2", gates=out, device="cpu")
    assert not model.spec.policy.aims
    assert model.gates[0].defaults.about["limit"] == 0.2
    (entry,) = model.gates[0].defaults.entries
    assert saa.run(model, "A short text.").policy is None
    trace = saa.run(model, "A short text of a few words.", saa.Policy())
    assert trace.policy.mass == entry.mass
    again = tmp_path / "again"
    assert (
        cli(
            [
                "masses",
                "--model",
                "smollm2",
                "--rows",
                str(rows_file),
                "--limit",
                "1e-9",
                "--out",
                str(again),
            ]
        )
        == 0
    )
    (strict,) = saa.load("smollm2", gates=again, device="cpu").gates[0].defaults.entries
    assert strict.mass == 1.0
    assert cli(["masses", "--out", str(again)]) == 1
    assert "--data" in capsys.readouterr().err


@pytest.mark.model
def test_an_adapters_masses_count_from_the_original(smollm2, novel):
    joint = saa.load("smollm2", adapter="saa-joint", device="cpu")
    with pytest.raises(saa.ModelError, match="baseline"):
        measure_masses(joint, {"novel": novel}, lengths=(64,), masses=(0.9,))
    (found,) = measure_masses(
        joint, {"novel": novel}, lengths=(64,), masses=(0.9,), windows=2, baseline=smollm2
    )
    assert (found.kind, found.block, len(found.increases)) == ("novel", (1, 1), 2)
    assert 0 < found.density < 1
