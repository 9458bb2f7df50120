"""Texts far from those that gates were trained on: the distance, its fit, and what a guard does about it."""

import json
import random
from dataclasses import replace

import pytest
import torch

import saa_core as saa
from saa_core.cli.main import main
from saa_core.data import fetch
from saa_core.data.corpus import Document
from saa_core.gates.files import read_gates
from saa_core.gates.ood import OodDetector, features
from saa_core.guard import FAR_ROWS, LOOKED
from saa_core.train.ood import PIECE, fit_detector, parts

POLICY = saa.Policy(mass=0.97, guard=saa.Guard(0.05))
FAR = "buffalo " * 120


def known(limit: float = 1.0, lengths: tuple[int, ...] = (16,)) -> OodDetector:
    return OodDetector(torch.zeros(8), torch.eye(8), lengths, (limit,) * len(lengths))


@pytest.fixture(scope="module")
def attached(minilm, novel) -> saa.Model:
    """MiniLM with statistics of the novel alone, on gates of its own."""
    from saa_core.explain.damage import damage_gates

    model = damage_gates(minilm, "negated", layers=[])
    third = len(novel) // 3
    parts = [{"novel": novel[at * third : (at + 1) * third]} for at in range(3)]
    fit_detector(model, *parts, lengths=(16, 128), fit_windows=300, limit_windows=200)
    return model


def test_rotation_and_padding_do_not_change_what_is_seen():
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 10, 8, generator=draw)
    seen = torch.ones(1, 10, dtype=torch.bool)
    plain = features(q, seen)
    angle = torch.rand(10, 4, generator=draw) * 6.28
    cos, sin = angle.cos(), angle.sin()
    first, second = q[..., :4], q[..., 4:]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    torch.testing.assert_close(features(turned, seen), plain, atol=1e-4, rtol=1e-4)
    padded = torch.cat([q, 100 * torch.ones(1, 2, 3, 8)], 2)
    hidden = torch.cat([seen, torch.zeros(1, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(features(padded, hidden), plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(features(2 * q, seen), plain)


def test_the_distance_is_one_at_one_standard_deviation_and_infinite_for_no_numbers():
    rows = torch.stack([torch.zeros(8), torch.ones(8), torch.full((8,), torch.nan)])
    assert known().distance(rows).tolist() == [0.0, 1.0, torch.inf]


def test_the_limit_lies_between_lengths_and_short_texts_have_none():
    own = OodDetector(torch.zeros(8), torch.eye(8), (16, 256), (4.0, 2.0))
    assert own.limit(15) == torch.inf
    assert own.limit(16) == 4.0
    assert own.limit(64) == pytest.approx(3.0)
    assert own.limit(256) == own.limit(100_000) == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"whiten": torch.eye(7)},
        {"limits": ()},
        {"lengths": (16, 8), "limits": (1.0, 1.0)},
        {"limits": (float("nan"),)},
    ],
)
def test_parts_that_do_not_fit_are_refused(change):
    with pytest.raises(saa.GateError, match=r"whiten|limits|lengths"):
        replace(known(), **change)


def test_a_far_text_is_noticed_and_looked_at_twice_as_hard(attached, novel):
    far = saa.run(attached, FAR, POLICY)
    event = far.events[0]
    assert (event["layer"], event["suspected"], event["done"]) == (0, "input", "twice")
    assert event["measured"] > event["limit"] > 0
    layers = far.shape[0]
    rows = POLICY.guard.rows_for(layers)
    assert far.events[-1]["queries"] == FAR_ROWS * rows * layers
    assert event["added"] == pytest.approx((rows + -(-rows * LOOKED // 1)) / far.keys, rel=1e-6)
    near = saa.run(attached, novel[:600], POLICY)
    assert all(event["suspected"] != "input" for event in near.events)
    assert near.events[-1]["queries"] == rows * layers


def test_without_a_guard_nothing_changes(attached, minilm):
    plain = replace(POLICY, guard=None)
    assert (saa.run(attached, FAR, plain).hidden == saa.run(minilm, FAR, plain).hidden).all()


def test_each_text_of_a_padded_batch_is_judged_for_itself(attached, novel):
    batch = attached.tokenizer([novel[:300], FAR], return_tensors="pt", padding=True)
    call = saa.Call(POLICY)
    with torch.inference_mode():
        attached.hf(**batch, saa=call)
    suspected = [[event["suspected"] for event in call.events(item)] for item in range(2)]
    assert ["input" in own for own in suspected] == [False, True]
    alone = saa.run(attached, FAR, POLICY).events[0]
    together = call.events(1)[0]
    assert together["measured"] == pytest.approx(alone["measured"], rel=1e-3)
    assert together["limit"] == alone["limit"]


def test_it_travels_with_the_gates_and_older_folders_have_none(attached, tmp_path):
    folder = saa.save_gates(attached, tmp_path / "gates", training={"steps": 1})
    own, stored = attached.gates[0].ood_detector, read_gates(folder).inputs
    assert torch.equal(stored.mean, own.mean)
    assert torch.equal(stored.whiten, own.whiten)
    assert (stored.limits, stored.lengths) == (own.limits, own.lengths)
    again = saa.load("minilm", device="cpu", gates=folder)
    assert saa.run(again, FAR, POLICY).events == saa.run(attached, FAR, POLICY).events
    about = json.loads((folder / "gates.json").read_text())
    about["inputs"]["limits"].pop()
    (folder / "gates.json").write_text(json.dumps(about))
    with pytest.raises(saa.GateError, match="limits"):
        read_gates(folder)
    del about["inputs"]
    (folder / "gates.json").write_text(json.dumps(about))
    assert read_gates(folder).inputs is None


@pytest.mark.model
def test_other_weights_have_other_queries():
    model = saa.load("minilm", device="cpu", task="sentences")
    assert model.gates[0].ood_detector is None


@pytest.mark.model
@pytest.mark.parametrize(("name", "adapter"), [("smollm2", None), ("smollm2", "saa-joint")])
def test_shipped_gates_know_their_inputs(name, adapter, novel):
    model = saa.load(name, adapter=adapter, device="cpu")
    about = model.gates[0].ood_detector.about
    assert about["command"].startswith("saa inputs --model smollm2")
    assert saa.run(model, FAR, POLICY).events[0]["suspected"] == "input"
    near = saa.run(model, novel[:600], POLICY)
    assert all(event["suspected"] != "input" for event in near.events)


@pytest.mark.model
def test_japanese_and_english_are_at_home_in_a_model_that_reads_both_and_random_bytes_are_far(
    e5, novel
):
    policy = saa.Policy(mass=0.97, guard=saa.Guard(0.05))
    draw = random.Random(0)
    noise = [draw.randbytes(330).decode("latin-1") for _ in range(4)]
    japanese = (fetch.assets() / "examples" / "japanese.txt").read_text("utf-8")
    for text, far in ((japanese[:300], False), (novel[:1200], False), *((n, True) for n in noise)):
        events = saa.run(e5, text, policy).events
        assert any(event["suspected"] == "input" for event in events) == far, text[:30]


@pytest.mark.model
def test_the_command_fits_and_stores(novel, tmp_path, capsys):
    file = tmp_path / "own.txt"
    file.write_text(novel * 2, "utf-8")
    out = tmp_path / "gates"
    asked = ["inputs", "--model", "minilm", "--data", str(file), "--out", str(out)]
    sizes = ["--lengths", "32", "--fit-windows", "40", "--limit-windows", "20"]
    assert main([*asked, *sizes]) == 0
    assert "far from a distance of" in capsys.readouterr().out
    inputs = json.loads((out / "gates.json").read_text())["inputs"]
    assert inputs["about"]["command"].startswith("saa inputs")
    assert set(inputs["about"]["over"]) == {str(file)}
    assert main([*asked, "--lengths", "2"]) == 1


def test_texts_that_fit_limit_and_judge_are_never_the_same():
    text = "".join(chr(97 + at) * PIECE for at in range(4))
    found = parts(
        [
            Document("own.txt", "own", text, "heldout"),
            Document("own.txt", "own", "trained on", "train"),
            Document("wikipedia", "an article", "ijkl", "heldout"),
        ]
    )
    fitted, limited, judged = found
    assert fitted == {"own.txt": "trained on"}
    assert {key: set(value) for key, value in limited.items()} == {"own.txt": {"a", "c"}}
    assert {key: set(value) for key, value in judged.items()} == {
        "own.txt": {"b", "d"},
        "wikipedia": set("ijkl"),
    }
    with pytest.raises(saa.TextError, match="evaluation only"):
        parts([Document("wikipedia", "an article", "ijkl", "heldout")])
