"""What the set-up shows: scripts/setup.py, and the bars of the commands it runs."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from saa_core.cli.bars import Bars
from saa_core.convert.gguf import gguf_progress

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pip_goes_to_the_log_and_its_state_into_one_line(setup):
    said = ["Collecting torch==2.13.0 (from -r requirements.txt (line 22))"]
    said += ["  Downloading torch-2.13.0-cp311.whl (506.1 MB)", "Progress 5 of 10"]
    log = io.StringIO()
    install = setup.Install([sys.executable, "-c", f"print({chr(10).join(said)!r})"], log)
    assert install.run(setup.Status()) == 0
    assert install._now() == "downloading torch (506.1 MB), 50 %"
    assert log.getvalue().splitlines() == said[:2]
    install._read(["Installing collected packages: numpy, torch, tqdm"])
    assert install._now() == "installing, 0 of 3 packages"


def test_a_refusal_of_pip_comes_back(setup):
    assert (
        setup.Install([sys.executable, "-c", "raise SystemExit(3)"], io.StringIO()).run(
            setup.Status()
        )
        == 3
    )


def test_triton_is_brought_only_where_pytorch_brought_none(setup, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(setup, "LOG", tmp_path / "setup.log")
    monkeypatch.setattr(setup.sys, "platform", "linux")
    ran: list[list[str]] = []

    class Pip(setup.Install):
        def run(self, status):
            ran.append(self.command)
            return 0

    monkeypatch.setattr(setup, "Install", Pip)
    for missing in (0, 1):
        found = subprocess.CompletedProcess([], missing)
        monkeypatch.setattr(setup.subprocess, "run", lambda *_, found=found: found)
        assert setup.interpreter() == 0
        assert len(ran) == missing
    assert ran[0][-1] == "triton==3.9.0"
    assert "286 MB" in capsys.readouterr().err


def test_a_log_of_an_hour_stays_short(setup, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(setup.time, "monotonic", lambda: now[0])
    status = setup.Status()
    status.terminal = False
    for _ in range(7200):
        now[0] += 0.5
        status.show("installing")
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 20


def test_tensors_of_a_gguf_file_move_our_bar():
    from transformers import modeling_gguf_pytorch_utils as reader

    seen, before = [], reader.tqdm
    with gguf_progress(lambda *given: seen.append(given), "converting"):
        assert list(reader.tqdm(["a", "b"], desc="theirs")) == ["a", "b"]
    assert seen == [("converting", 0, 2), ("converting", 1, 2), ("converting", 2, 2)]
    assert reader.tqdm is before


def test_a_step_may_learn_how_much_there_is(capsys):
    with Bars() as bars:
        bars("converting", 0, 1)
        bars("converting", 272, 272)
    assert "272/272" in capsys.readouterr().err
