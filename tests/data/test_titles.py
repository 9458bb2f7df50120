"""A model by its title: what ships for an alias is named with it, and never hides in it."""

import argparse

import pytest

import saa_core as saa
from app.live.models import MODELS, ModelRegistry
from saa_core.cli.models import name_model
from saa_core.data.titles import FIRST, Parts, parts_of


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("smollm2", Parts("smollm2")),
        ("smollm2 + saa-joint", Parts("smollm2", adapter="saa-joint")),
        ("smollm2+saa-joint", Parts("smollm2", adapter="saa-joint")),
        ("minilm + spam", Parts("minilm", task="spam")),
        ("org/a-model", Parts("org/a-model")),
        ("org/c++ + d", Parts("org/c++ + d")),
    ],
)
def test_a_title_is_taken_apart(name, parts):
    assert parts_of(name) == parts


@pytest.mark.parametrize("name", ["smollm2 + nothing", "minilm + saa-joint", "smollm2 +"])
def test_what_does_not_ship_is_named_with_what_does(name):
    with pytest.raises(saa.ModelError, match=r"does not ship for .*shipped: (smollm2|minilm) \+ "):
        parts_of(name)


def test_a_folder_with_a_plus_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2 + mine").mkdir()
    assert parts_of("smollm2 + mine") == Parts("smollm2 + mine")


def asked(**given: object) -> tuple[str, str | None, str | None]:
    values = {"model": None, "adapter": None, "gates": None, "task": None}
    options = argparse.Namespace(**(values | given))
    name_model(options)
    return options.model, options.adapter, options.task


def test_commands_start_with_the_joint_model():
    assert asked() == ("smollm2", "saa-joint", None)
    assert asked(model="smollm2") == ("smollm2", None, None), "an adapter never hides"
    assert asked(gates="mine") == ("smollm2", None, None), "gates of a frozen model"
    assert asked(adapter="mine") == ("smollm2", "mine", None)
    assert asked(task="spam") == ("minilm", None, "spam")
    assert asked(dense=True) == ("smollm2", None, None), "dense is the original"
    assert asked(model=FIRST, dense=True) == ("smollm2", "saa-joint", None)
    with pytest.raises(saa.ModelError, match="names its adapter; leave --adapter 'mine' out"):
        asked(model=FIRST, adapter="mine")


def test_the_page_starts_with_it_and_compares_with_the_original():
    assert MODELS[0] == FIRST
    registry = ModelRegistry()
    for name in (FIRST, "smollm2+saa-joint"):
        source = registry.source(name)
        assert (source.model, source.adapter) == ("smollm2", "saa-joint")
    assert registry.source("org/own").model == "org/own"


@pytest.mark.model
def test_loading_by_title_is_loading_with_the_adapter():
    titled = saa.load(FIRST, device="cpu")
    assert titled.spec.title == FIRST
    assert (titled.spec.name, titled.spec.adapter, titled.spec.gate) == (
        "smollm2",
        "saa-joint",
        "saa-joint",
    )
    assert saa.load("smollm2", device="cpu").spec.adapter is None
    assert saa.load("minilm + spam", device="cpu").task.name == "spam"
    with pytest.raises(saa.ModelError, match="names its adapter"):
        saa.load(FIRST, adapter="saa-joint")
    with pytest.raises(saa.ModelError, match="names its task"):
        saa.load("minilm + spam", task="spam")
