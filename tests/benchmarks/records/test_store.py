"""The store of traces, twenty of them."""

import json

from tests.benchmarks.started import start


def test_store(tmp_path, monkeypatch):
    out = tmp_path / "store.json"
    start("records.store", monkeypatch, "--traces", "20", "--repeats", "2", "--out", str(out))
    found = json.loads(out.read_text())
    assert (found["traces"], found["head_rows"]) == (20, 2000)
    for name in ("list", "aggregate"):
        assert len(found[name]["samples_s"]) == 2
        assert min(found[name]["samples_s"]) > 0
