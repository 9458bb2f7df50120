"""The saa command, run in process: what it prints and what it leaves behind."""

import json
from pathlib import Path

import huggingface_hub
import pytest

import saa_core as saa
from saa_core.cli.main import main
from saa_core.cli.train import loss_by_kind


@pytest.mark.model
def test_run_prints_a_table_and_writes_a_trace_that_opens(text_file, tmp_path, capsys):
    out = tmp_path / "one.saa"
    assert (
        main(["run", "--model", "smollm2", "--mass", "0.95", "--out", str(out), str(text_file)])
        == 0
    )
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.strip()[:2].strip().isdigit()]
    assert len(rows) == 30
    trace = saa.Trace.load(out)
    assert trace.policy.mass == 0.95
    assert trace.text == text_file.read_text()
    assert f"{100 * trace.density[4].mean():.1f}" in rows[4]
    assert str(out) in printed


@pytest.mark.model
def test_run_takes_a_budget_in_place_of_the_mass(text_file, novel, tmp_path, capsys):
    out = tmp_path / "one.saa"
    text_file.write_text(novel[:700], encoding="utf-8")
    assert main(["run", "--budget", "0.5", "--out", str(out), str(text_file)]) == 0
    assert "budget 0.5" in capsys.readouterr().out
    trace = saa.Trace.load(out)
    assert trace.policy.mass is None
    assert trace.density.mean() <= 0.5


@pytest.mark.model
def test_run_says_at_which_address_its_trace_opens(text_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    assert main(["run", "--dense", str(text_file)]) == 0
    (run,) = saa.Store().ids()
    assert f"http://127.0.0.1:8501/run/{run}\n" in capsys.readouterr().out


@pytest.mark.model
def test_run_goes_to_the_store_by_default(text_file, tmp_path):
    folder = str(tmp_path / "store")
    given = ["--dense", "--store", folder, "--note", "first look", "--tag", "demo"]
    assert main(["run", *given, str(text_file)]) == 0
    store = saa.Store(folder)
    (run,) = store.ids()
    assert store.get(run).policy is None
    assert store.notes()[run].note == "first look"
    assert store.query("SELECT tags FROM runs").to_pylist() == [{"tags": ["demo"]}]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "no-such-file.txt"], "FILE='no-such-file.txt'"),
        (["run", "--mass", "7", "{text}"], "mass=7.0"),
        (["run", "--mass", "0.9", "--budget", "0.4", "{text}"], "exclude each other"),
        (["run", "--model", "no/such", "{text}"], "smollm2"),
        (["run", "--gates", "nowhere", "{text}"], "gates='nowhere'"),
        (["run", "--device", "abacus", "{text}"], "device='abacus'"),
        (["fetch", "gpt9"], "minilm, smollm2"),
        (["train", "--data", "nothing", "--out", "x"], "known sources"),
        (["train", "--data", "kind:poems", "--out", "x"], "kind:fiction, kind:japanese"),
        (["train", "--leave-out", "poems", "--out", "x"], "leave_out='poems'"),
        (["train", "--data", "{text}", "--leave-out", "{text}", "--out", "x"], "nothing is left"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_refusals_are_one_sentence(arguments, sentence, text_file, capsys, monkeypatch):
    # Without a network the hub's client would try again for most of a minute.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    filled = [argument.replace("{text}", str(text_file)) for argument in arguments]
    assert main(filled) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("saa: ")
    assert sentence in errors
    assert "Traceback" not in errors


@pytest.mark.model
def test_measure_shows_both_sides_and_writes_raw_samples(tmp_path, capsys):
    file = tmp_path / "t.json"
    arguments = ["measure", "--lengths", "40", "--repeats", "2", "--json", str(file)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "attention" in printed
    assert "times faster" in printed
    dense, sparse = json.loads(file.read_text())
    assert dense["name"] == "dense"
    assert len(sparse["samples_ms"]) == 2


@pytest.mark.slow
def test_doctor_lists_what_works(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("torch", "threads", "reference", "gather", "flex", "smollm2", "smollm2"):
        assert word in printed


def test_untrained_gates_are_said_loudly(tiny, tmp_path, text_file, capsys, novel, smollm2):
    folder = tmp_path / "own-model"
    hf = tiny(vocab_size=len(smollm2.tokenizer), num_hidden_layers=1)
    hf.save_pretrained(folder)
    smollm2.tokenizer.save_pretrained(folder)
    out = tmp_path / "t.saa"
    assert main(["run", "--model", str(folder), "--out", str(out), str(text_file)]) == 0
    captured = capsys.readouterr()
    assert "UNTRAINED" in captured.err
    assert "UNTRAINED" in captured.out
    assert not saa.Trace.load(out).model.trained
    data = tmp_path / "data.txt"
    data.write_text(novel[:30_000], "utf-8")
    asked = ["ood", "--model", str(folder), "--data", str(data), "--out", str(tmp_path / "g")]
    main([*asked, "--lengths", "32", "--fit-windows", "8", "--limit-windows", "4"])
    assert "UNTRAINED" in capsys.readouterr().err


def test_train_writes_gates_that_load(tiny, tmp_path, novel, capsys, smollm2):
    folder, data, out = tmp_path / "own-model", tmp_path / "data.txt", tmp_path / "gates"
    tiny(vocab_size=len(smollm2.tokenizer)).save_pretrained(folder)
    smollm2.tokenizer.save_pretrained(folder)
    data.write_text(novel[:20_000], encoding="utf-8")
    arguments = ["train", "--model", str(folder), "--data", str(data), "--out", str(out)]
    assert main([*arguments, "--steps", "3", "--lengths", "64", "--windows", "2"]) == 0
    assert "perplexity" in capsys.readouterr().out
    model = saa.load(str(folder), gates=out)
    assert model.spec.trained
    about = json.loads((out / "gates.json").read_text())
    assert about["training"]["command"].startswith(f"saa train --model {folder} --data {data}")
    assert len((out / "checkpoint" / "log.jsonl").read_text().splitlines()) == 3
    (row,) = about["evaluation"]["quality"]
    assert row["length"] == 64

    calibrated = tmp_path / "calibrated"
    arguments = ["calibrate", "--model", str(folder), "--gates", str(out), "--data", str(data)]
    assert main([*arguments, "--length", "64", "--out", str(calibrated)]) == 0
    assert capsys.readouterr().out.count("\n") >= 4
    after = json.loads((calibrated / "gates.json").read_text())
    assert after["training"]["command"] == about["training"]["command"]
    assert after["training"]["calibration"].startswith("saa calibrate")
    assert len(after["calibration"]) == 2

    arguments = ["train", "--model", str(folder), "--data", str(data), "--steps", "1"]
    arguments += ["--lengths", "64", "--windows", "1", "--gates", str(out)]
    assert main([*arguments, "--out", str(tmp_path / "more")]) == 0
    more = json.loads((tmp_path / "more" / "gates.json").read_text())
    assert more["training"]["continues"]["command"] == about["training"]["command"]
    assert main([*arguments, "--fresh", "--out", str(tmp_path / "fresh")]) == 0
    fresh = json.loads((tmp_path / "fresh" / "gates.json").read_text())
    assert "continues" not in fresh["training"]


def test_a_kind_that_is_left_out_is_evaluated_on_and_not_trained_on(
    tiny, tmp_path, novel, capsys, smollm2
):
    folder, out = tmp_path / "own-model", tmp_path / "gates"
    tiny(vocab_size=len(smollm2.tokenizer)).save_pretrained(folder)
    smollm2.tokenizer.save_pretrained(folder)
    known, new = (str(tmp_path / name) for name in ("known.txt", "new.txt"))
    for place, file in enumerate((known, new)):
        Path(file).write_text(novel[20_000 * place :][:20_000], encoding="utf-8")
    arguments = ["train", "--model", str(folder), "--data", known, new, "--leave-out", new]
    arguments += ["--out", str(out), "--steps", "4", "--lengths", "64", "--windows", "2"]
    assert main(arguments) == 0
    steps = (out / "checkpoint" / "log.jsonl").read_text().splitlines()
    assert {json.loads(step)["source"] for step in steps} == {known}
    about = json.loads((out / "gates.json").read_text())
    assert set(about["training"]["data_sha256"]) == {known}
    assert {row["text"] for row in about["evaluation"]["quality"]} == {known, new}
    (row,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{known}  ")
    )
    assert row.split()[1] == "4"


def test_the_loss_of_each_kind_is_that_of_its_first_and_last_windows():
    head, code, mail = loss_by_kind({"mail": [1.0] * 30 + [0.5] * 20, "code": [2.0]})
    assert head.split()[:2] == ["kind", "windows"]
    assert code.split() == ["code", "1", "2.000", "2.000"]
    assert mail.split() == ["mail", "50", "1.000", "0.500"]


def test_run_cuts_a_text_that_is_too_long(tiny, tmp_path, capsys, smollm2):
    folder, file = tmp_path / "own-model", tmp_path / "long.txt"
    hf = tiny(vocab_size=len(smollm2.tokenizer), num_hidden_layers=1, max_position_embeddings=64)
    hf.save_pretrained(folder)
    smollm2.tokenizer.save_pretrained(folder)
    file.write_text("word " * 100, encoding="utf-8")
    asked = ["run", "--model", str(folder), "--out", str(tmp_path / "t.saa"), str(file)]
    assert main(asked) == 1
    assert "takes at most 64; cut it after character" in capsys.readouterr().err
    assert main([*asked, "--cut"]) == 0
    assert "saa: cut at 64 of " in capsys.readouterr().err
    assert saa.Trace.load(tmp_path / "t.saa").keys == 64
