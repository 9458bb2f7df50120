"""The GPU's benchmark on tiny input, in the interpreter where there is no GPU; never that anything is fast."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed import gpu_models, gpu_shapes
from benchmarks.speed.gpu_shapes import Setting
from saa_core.run.captured import Captured
from tests.benchmarks.started import start


def test_checks_times_and_resumes(tmp_path, monkeypatch, triton_device, capsys):
    out = tmp_path / "gpu.json"
    monkeypatch.setenv("SAA_CACHE", str(tmp_path))
    asked = ["--tiny", "--device", triton_device.type, "--repeats", "1", "--out", str(out)]
    start("speed.gpu", monkeypatch, *asked)
    found = json.loads(out.read_text())
    assert found["about"]["tiny"]
    (checked,), (timed,) = (found["parts"][name]["rows"] for name in ("check", "layer"))
    assert checked["wrong"] == 0
    assert checked["error"]["triton"] < 1e-3
    assert set(timed["median_ms"]) >= {"dense", "gate, rule, lists", "triton"}
    assert all(len(samples) == 1 for samples in timed["samples_ms"].values())
    start("speed.gpu", monkeypatch, *asked)
    assert json.loads(out.read_text()) == found, "what is there is not measured again"
    assert "check: there already" in capsys.readouterr().err


def test_says_in_words_that_it_needs_a_gpu(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        start("speed.gpu", monkeypatch, "--device", "cpu")
    assert "CUDA GPU, and the model is on cpu" in capsys.readouterr().err


def test_prefill_at_a_stated_density(monkeypatch):
    """Without graphs, which only a GPU has: the rest of the part, on a small model."""

    class Plain(Captured):
        def __init__(self, model, policy, *, exact):
            self.model, self.policy = model, policy

        def __call__(self, ids):
            gpu_models._forward(self.model, self.policy, ids)

    monkeypatch.setattr(gpu_models, "Captured", Plain)
    monkeypatch.setattr(gpu_models, "BLOCK", (32, 16))
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    setting = Setting(torch.device("cpu"), False, 2, Path("unused"))
    (row,) = gpu_models._prefill(gpu_shapes.TINY, [300], 0.5, setting)
    assert row["density"] == pytest.approx(0.5, abs=0.1)
    assert row["ratio"] > 0
    assert [len(samples) for samples in row["samples_ms"].values()] == [2, 2]


def test_what_was_not_fetched_is_named(monkeypatch):
    monkeypatch.setattr(gpu_models.fetch, "present", lambda folder: False)
    setting = Setting(torch.device("cpu"), False, 1, Path("unused"))
    for part in (gpu_models.default, gpu_models.understanding, gpu_models.train):
        assert all("was not fetched" in row["skipped"] for row in part(setting))
