"""What is imported for what: seen in fresh processes, because this one has loaded everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import saa_core as saa
from saa_core.cli.main import COMMANDS
from saa_core.data import fetch

ROOT = Path(__file__).parent.parent.parent
TENSORS = ("torch", "transformers")
TABLES = ("duckdb", "pyarrow", "pandas")
TRAINING = ("peft", "optuna", "accelerate", "saa_core.train", "saa_core.certify")
COMPILER = ("torch._dynamo", "torch._inductor")
FRONT_END = ("streamlit", "altair", "gguf")


def steps(*lines: str, **environment: str) -> list[set[str]]:
    """The modules that are loaded after each of these lines of Python, run one after the other."""
    code = ["import contextlib, io, json, sys", "loaded = []"]
    for line in lines:
        code += ["with contextlib.redirect_stdout(io.StringIO()):", "    try:", f"        {line}"]
        code += ["    except SystemExit as ended:", "        assert ended.code == 0, ended.code"]
        code += ["loaded.append(sorted(sys.modules))"]
    code += ["print(json.dumps(loaded))"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [set(names) for names in json.loads(done.stdout.splitlines()[-1])]


def test_the_library_loads_what_is_used():
    package, records, running = steps(
        "import saa_core",
        "from saa_core import Policy, Guard, RiskLimit, Trace, TrainConfig, JointConfig",
        "from saa_core import Call, load, run",
    )
    assert not package & {*TENSORS, *TABLES, *TRAINING, *FRONT_END, "numpy", "tqdm"}
    assert not records & {*TENSORS, *TABLES, *FRONT_END, "peft", "optuna", "tqdm"}
    assert "torch" in running
    assert not running & {"transformers", *TABLES, *COMPILER, *FRONT_END, "peft", "optuna"}
    assert not {name for name in running if name.startswith("saa_core.train.")} - {
        "saa_core.train.config",
    }


def test_help_of_every_command_needs_no_model(tmp_path):
    """In the order of what they may load: once a module is there, it is there for what follows."""
    light = ["fetch", "doctor", "run", "measure", "classify", "audit"]
    light += ["tune", "train", "joint", "train-task", "export", "serve", "calibrate", "reliability"]
    light += ["masses", "ood"]
    tables = ["query", "report", "present"]
    assert {*light, *tables} == {command.name for command in COMMANDS}
    start = "from saa_core.cli.main import main"
    general, *own = steps(
        f"{start}; main(['--help'])", *(f"main(['{name}', '--help'])" for name in light + tables)
    )
    heavy = {*TENSORS, *TABLES, *FRONT_END, "numpy", "tqdm", "saa_core.train", "saa_core.store"}
    assert not general & {*heavy, *(f"saa_core.cli.{command.file}" for command in COMMANDS)}
    for name, loaded in zip(light + tables, own, strict=True):
        assert not loaded & {*TENSORS, *FRONT_END, "tqdm", "peft", "optuna"}, name
        if name in light:
            assert not loaded & {*TABLES, "saa_core.store"}, name


@pytest.fixture
def stored(tmp_path) -> Path:
    """A store that holds one recorded trace."""
    folder = tmp_path / "store"
    recorded = next((ROOT / "assets" / "decks").glob("*-bakery.saa"))
    saa.Store(folder).add(saa.Trace.load(recorded))
    return folder


def test_records_are_read_without_a_model(stored, tmp_path):
    (run,) = saa.Store(stored).ids()
    report, page = (str(tmp_path / name) for name in ("one.html", "deck.html"))
    file = str(stored / f"{run}.saa")
    by_file, by_id, query, present = steps(
        f"from saa_core.cli.main import main; assert main(['report', {file!r}, '-o', {report!r}]) == 0",
        f"assert main(['report', {run!r}, '--store', {str(stored)!r}, '-o', {report!r}]) == 0",
        f"assert main(['query', 'SELECT id FROM runs', '--store', {str(stored)!r}]) == 0",
        f"assert main(['present', 'engineers', '-o', {page!r}]) == 0",
        SAA_STORE=str(stored),
    )
    assert not by_file & {*TENSORS, *TABLES, *FRONT_END, *TRAINING, "tqdm"}
    for loaded in (by_id, query, present):
        assert not loaded & {*TENSORS, *FRONT_END, *TRAINING, "tqdm"}
    assert Path(report).stat().st_size > 10_000


def test_models_that_are_there_are_seen_without_loading_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SAA_CACHE", str(tmp_path))
    there = fetch.model_dir("minilm")
    there.mkdir(parents=True)
    (there / fetch.MANIFEST).write_text('{"files": {}}', encoding="utf-8")
    (loaded,) = steps(
        "from saa_core.cli.main import main; assert main(['fetch', 'minilm']) == 0",
        SAA_CACHE=str(tmp_path),
    )
    assert not loaded & {*TENSORS, *TABLES, *FRONT_END, "numpy"}
