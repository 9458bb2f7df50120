"""The process itself: ready, drained by SIGTERM, killed and started again; with one exported task, without PyTorch."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import saa_core as saa
from benchmarks.serve.process import COMMAND, Process, serving
from tests.serve.serving import wait_for

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(toys, tmp_path_factory) -> Path:
    return saa.export(toys, tmp_path_factory.mktemp("export") / "toys")


def test_an_exported_task_is_served_without_pytorch(exported, tmp_path):
    """Also killed at once and started again; `serve` itself loads no PyTorch."""
    watch = tmp_path / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ImportError('no torch here')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "try:\n"
        "    import __editable___saa_core_0_1_0_finder as f\n"
        f"    f.MAPPING['saa_core'] = {str(ROOT / 'saa_core')!r}\n"
        f"    f.MAPPING['saa_core.assets'] = {str(ROOT / 'assets')!r}\n"
        "except ImportError:\n"
        "    pass\n"
    )
    here = {"PYTHONPATH": f"{watch}:{ROOT}"}
    with serving(tmp_path, "--engine", str(exported), **here) as own:
        body = {"model": "toys", "input": ["w5 w6 w7", "w9"]}
        status, first = own.ask("/v1/classify", body)
        assert status == 200
        expected = saa.open_engine(exported).classify(body["input"])
        assert [each["label"] for each in json.loads(first)["data"]] == [e.label for e in expected]
        status, refused = own.ask("/saa/v1/run", {"model": "toys", "text": "w5"})
        assert status == 400
        assert b"exported" in refused
        status, dense = own.ask("/v1/classify", {**body, "saa": {"policy": "dense"}})
        assert json.loads(dense)["data"][0]["saa"]["dense"]
        own.process.send_signal(signal.SIGKILL)
        own.process.wait(30)
    with serving(tmp_path, "--engine", str(exported), **here) as again:
        assert json.loads(again.ask("/v1/classify", body)[1])["data"] == json.loads(first)["data"]


@pytest.mark.model
def test_sigterm_lets_streams_end_and_nobody_in(tmp_path):
    stored = tmp_path / "kept"
    config = tmp_path / "serve.toml"
    config.write_text(
        f'[[model]]\nmodel = "smollm2"\n[keep]\nwhat = "text"\nfolder = "{stored}"\n'
        "[limits]\ndrain_seconds = 300\nrequest_seconds = 300\n"
    )
    with serving(tmp_path, "--config", str(config), "--device", "cpu") as own:
        assert own.ask("/saa/v1/run", {"model": "smollm2", "text": "Once upon a time"})[0] == 200
        body = {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 12, "stream": True}
        streams, threads = list[bytes](), list[threading.Thread]()
        for _ in range(2):
            threads.append(
                threading.Thread(target=lambda: streams.append(own.ask("/v1/completions", body)[1]))
            )
            threads[-1].start()
        wait_for(lambda: b"saa_num_requests_running 2.0" in own.ask("/metrics")[1])
        own.process.send_signal(signal.SIGTERM)
        wait_for(lambda: any(line["event"] == "draining" for line in own.lines))
        assert own.ask("/v2/health/live")[0] == 200
        assert own.ask("/v2/health/ready")[0] == 503
        assert own.ask("/v1/completions", {**body, "stream": False})[0] == 503
        for thread in threads:
            thread.join(120)
        assert len(streams) == 2
        for stream in streams:
            assert stream.rstrip().endswith(b"data: [DONE]")
            assert b'"finish_reason": "length"' in stream
        assert own.process.wait(30) == 0
    with serving(tmp_path, "--config", str(config), "--device", "cpu") as again:
        assert len(json.loads(again.ask("/saa/v1/traces")[1])["traces"]) == 1, "a run was lost"
        threading.Thread(target=lambda: _quietly(again, body), daemon=True).start()
        wait_for(lambda: b"saa_num_requests_running 1.0" in again.ask("/metrics")[1])
        began = time.monotonic()
        again.process.send_signal(signal.SIGTERM)
        wait_for(lambda: [line["event"] for line in again.lines].count("draining") == 2)
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(10) != 0
        assert time.monotonic() - began < 5


def _quietly(own: Process, body: dict) -> None:
    try:
        own.ask("/v1/completions", {**body, "max_tokens": 400})
    except OSError:
        return


def test_what_cannot_be_served_is_said_in_a_sentence(tmp_path):
    for options, what in (
        (["--engine", str(tmp_path)], "saa export"),
        (["--model", "minilm", "--host", "192.0.2.1"], "needs a token"),
        (["--model", "minilm + nothing"], "does not ship"),
        (["--config", str(tmp_path / "none.toml")], "cannot be read"),
    ):
        command = [sys.executable, "-c", COMMAND, "serve", "--port", "0", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert what in done.stderr
        assert "Traceback" not in done.stderr
