"""How true predicted mass is: the map, its fit, its judgement, and how it travels with the gate."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import saa_core as saa
from benchmarks.publish.tables_trust import reliability_table
from saa_core.cli.main import main
from saa_core.data.corpus import Document
from saa_core.explain.damage import damage_gates
from saa_core.gates.files import read_gates
from saa_core.gates.reliability import MassCalibrator
from saa_core.train.reliability import Rows, fit, halves, judge, measure_reliability

LENGTHS, MASSES = (48, 64), (0.8, 0.9)


def rows(count: int, offset: float, slope: float, seed: int = 0) -> Rows:
    """One layer of two heads; in the first one the truth follows a map, the second leaves nothing out."""
    draw = torch.Generator().manual_seed(seed)
    said = 0.7 + 0.3 * torch.rand(1, 2, count, generator=draw)
    true = torch.sigmoid(offset + slope * said.logit())
    true = true + 0.3 * true * (1 - true) * torch.randn(true.shape, generator=draw)
    left_out = torch.tensor([True, False])[None, :, None].expand(1, 2, count)
    return Rows(said, true, left_out)


@pytest.fixture(scope="module")
def boastful(minilm) -> saa.Model:
    """MiniLM with gates that are too sure of themselves."""
    model = damage_gates(minilm, "negated", layers=[])
    with torch.no_grad():
        for gate in model.gates:
            gate.query.mul_(1.6)
    return model


@pytest.fixture(scope="module")
def measured(boastful, novel) -> saa.Model:
    half = len(novel) // 2
    texts = {"a": novel[:half]}, {"a": novel[half:]}
    return measure_reliability(boastful, *texts, lengths=LENGTHS, masses=MASSES)


def test_a_map_is_monotone_and_leaves_nothing_and_all_alone():
    own = MassCalibrator((0.5, -1.0), (0.7, 1.3))
    said = torch.linspace(0, 1, 101).expand(1, 2, 101)
    mapped = own(said)
    assert (mapped.diff(dim=-1) >= 0).all()
    assert (mapped[..., 0] == 0).all()
    assert (mapped[..., -1] == 1).all()
    torch.testing.assert_close(MassCalibrator((0.0,), (1.0,))(said[:, :1]), said[:, :1])


@pytest.mark.parametrize(("offset", "slope"), [((0.0,), (-1.0,)), ((0.0, 0.0), (1.0,))])
def test_a_map_that_turns_things_round_or_lacks_a_head_is_refused(offset, slope):
    with pytest.raises(saa.GateError, match="slope"):
        MassCalibrator(offset, slope)


@pytest.mark.parametrize(("offset", "slope"), [(0.0, 1.0), (0.6, 0.6), (-0.8, 1.4)])
def test_the_fit_finds_the_map_that_made_the_rows(offset, slope):
    (found,) = fit(rows(4000, offset, slope))
    assert abs(found.offset[0] - offset) < 0.15
    assert abs(found.slope[0] - slope) < 0.1
    assert (found.offset[1], found.slope[1]) == (0.0, 1.0), "nothing is known of this head"
    fresh = rows(4000, offset, slope, seed=1)
    assert judge(fresh, [found]).error < 0.01


def test_rows_that_say_the_opposite_of_the_truth_are_met_by_a_flat_map():
    said = torch.linspace(0.6, 0.95, 500)[None, None]
    (found,) = fit(Rows(said, 1.55 - said, torch.ones_like(said, dtype=torch.bool)))
    assert 0 < found.slope[0] < 0.1
    mapped = found(said)
    assert abs(float(mapped.mean()) - float((1.55 - said).mean())) < 0.01


def test_the_error_is_the_distance_of_said_and_true_in_bins():
    said = torch.linspace(0.5, 0.9, 200)[None, None]
    left_out = torch.ones_like(said, dtype=torch.bool)
    left_out[..., 150:] = False  # these are right by themselves and must not dilute the error
    true = torch.where(left_out, said - 0.1, said)
    diagram = judge(Rows(said, true, left_out))
    assert diagram.error == pytest.approx(0.1, abs=1e-4)
    assert diagram.heads[0][0] == pytest.approx(0.1, abs=1e-4)
    assert [each.rows for each in diagram.bins] == [15] * 10
    assert sorted(each.predicted for each in diagram.bins) == [
        each.predicted for each in diagram.bins
    ]


def test_what_a_gate_is_too_sure_of_is_corrected_on_other_texts(measured, boastful, novel):
    (found,) = measured.spec.reliability
    assert found.pairwise
    assert found.before.error > 0.02 > found.after.error
    before, after = (np.asarray(diagram.heads) for diagram in (found.before, found.after))
    assert before.shape == (6, 12)
    assert after.mean() < before.mean() / 2
    trace = saa.run(measured, novel[-500:], saa.Policy(mass=0.85))
    off = np.abs(trace.predicted_mass - trace.retained_mass).mean()
    assert np.abs(trace.calibrated_mass - trace.retained_mass).mean() < off


def test_the_correction_never_changes_a_decision(measured, novel):
    text, policy = novel[:400], saa.Policy(mass=0.85)
    known = saa.run(measured, text, policy)
    plain = damage_gates(measured, "negated", layers=[])
    for gate in plain.gates:
        gate.mass_calibrators = {}
    unknown = saa.run(plain, text, policy)
    assert (known.hidden == unknown.hidden).all()
    assert (known.predicted_mass == unknown.predicted_mass).all()
    assert unknown.calibrated_mass is None
    blocks = saa.run(measured, text, replace(policy, granularity="block"))
    assert blocks.calibrated_mass is None, "measured pair by pair only"


def test_it_travels_with_gates_and_traces(measured, novel, tmp_path):
    folder = saa.save_gates(measured, tmp_path / "gates", training=measured.spec.training)
    assert read_gates(folder).reliability == measured.spec.reliability
    again = saa.load("minilm", device="cpu", gates=folder)
    assert again.spec.reliability == measured.spec.reliability
    trace = saa.run(again, novel[:300], saa.Policy(mass=0.85))
    stored = saa.Trace.load(trace.save(tmp_path / "run.saa"))
    assert (stored.calibrated_mass == trace.calibrated_mass).all()
    assert 0 < trace.calibrated_mass.min() <= trace.calibrated_mass.max() <= 1


def test_what_is_published_is_what_is_stored(measured, tmp_path):
    folder = saa.save_gates(measured, tmp_path / "gates", training=measured.spec.training)
    (found,) = measured.spec.reliability
    (line,) = reliability_table({"own": folder}).splitlines()[2:]
    errors = f"{100 * found.before.error:.2f} → {100 * found.after.error:.2f}"
    assert line.startswith("| own | pairs | 48, 64 |")
    assert errors in line


def test_older_folders_load_and_broken_ones_are_refused(measured, tmp_path):
    folder = saa.save_gates(measured, tmp_path / "gates", training=measured.spec.training)
    about = json.loads((folder / "gates.json").read_text())
    about["reliability"][0]["maps"].pop()
    (folder / "gates.json").write_text(json.dumps(about))
    with pytest.raises(saa.GateError, match="reliability"):
        read_gates(folder)
    del about["reliability"]
    (folder / "gates.json").write_text(json.dumps(about))
    assert read_gates(folder).reliability == ()


def test_gates_that_are_trained_on_lose_it(measured, novel, tmp_path):
    model = damage_gates(measured, "negated", layers=[])
    config = saa.TrainConfig(steps=1, lengths=(64,))
    assert len(list(saa.train_gates(model, [novel], config))) == 1
    folder = saa.save_gates(model, tmp_path / "gates", training={"steps": 1})
    assert read_gates(folder).reliability == ()


@pytest.mark.model
def test_a_task_has_other_weights_than_those_that_were_measured():
    model = saa.load("minilm", device="cpu", task="sentences")
    assert model.spec.reliability == ()
    assert saa.run(model, "A short text.", saa.Policy(mass=0.8)).calibrated_mass is None


def test_texts_are_fitted_to_or_judged_on_and_never_both():
    documents = [
        Document("own.txt", "own", "abcdefgh", "heldout"),
        Document("own.txt", "own", "trained on", "train"),
        Document("wikipedia", "an article", "ijkl", "heldout"),
    ]
    fitted, judged = halves(documents)
    assert fitted == {"own.txt": "abcd"}
    assert judged == {"own.txt": "efgh", "wikipedia": "ijkl"}
    with pytest.raises(saa.TextError, match="evaluation only"):
        halves(documents[2:])


@pytest.mark.model
def test_the_command_measures_and_stores(novel, tmp_path, capsys):
    file = tmp_path / "own.txt"
    file.write_text(novel * 2, "utf-8")
    out = tmp_path / "gates"
    sizes = ["--lengths", "48", "--masses", "0.85", "--windows", "1"]
    asked = ["reliability", "--model", "minilm", "--data", str(file), "--out", str(out), *sizes]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "worst head" in printed
    about = json.loads((out / "gates.json").read_text())
    assert about["id"] == "minilm-distilled-3000"
    (found,) = (each for each in about["reliability"] if each["pairwise"])
    assert found["about"]["lengths"] == [48]
    assert found["about"]["command"].startswith("saa reliability")
    assert main([*asked, "--lengths", "1"]) == 1
