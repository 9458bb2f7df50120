"""The engine that a page offers: exported once, of this model, and timed in turns."""

from dataclasses import replace

import pytest

import saa_core as saa
from saa_core.export import offer
from tests.export.tiny import make_model


def test_it_is_exported_once_and_of_this_model(model, exported, tmp_path, monkeypatch):
    """Another model of the same name gets a folder of its own."""
    asked = []

    def export(model, folder, int8):
        asked.append((folder, int8))
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(exported)
        return folder

    monkeypatch.setenv("SAA_CACHE", str(tmp_path))
    monkeypatch.setattr(offer, "export", export)
    monkeypatch.setattr(offer, "open_engine", lambda folder, threads: (folder, threads))
    first = offer.engine_for(model, threads=1)
    assert offer.engine_for(model, threads=1) == first
    assert len(asked) == 1
    head = make_model().task.head
    head.bias += 1
    other = replace(model, task=replace(model.task, head=head))
    offer.engine_for(other)
    offer.engine_for(model, int8=True)
    folders = [folder for folder, _ in asked]
    assert len(set(folders)) == 3
    assert [int8 for _, int8 in asked] == [False, False, True]
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


def test_both_engines_take_turns(model, engine):
    found = offer.time_engines(model, engine, "w4 w5 w6", rounds=3)
    assert {name: len(own) for name, own in found.samples_ms.items()} == {
        offer.PYTORCH: 3,
        offer.ONNXRUNTIME: 3,
    }
    assert all(ms > 0 for own in found.samples_ms.values() for ms in own)
    assert found.tokens == 5
    with pytest.raises(saa.TextError, match="is empty"):
        offer.time_engines(model, engine, " ")


def test_the_fastest_is_that_of_the_lower_median():
    times = offer.EngineTimes({"pytorch": (1.0, 9.0, 9.0), "onnxruntime": (8.0, 8.0, 20.0)}, 5)
    assert times.fastest == "onnxruntime"
