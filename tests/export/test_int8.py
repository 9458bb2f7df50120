"""What int8 changes: little, nothing of what decides, and the folder says how much."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.onnx_model import ONNXModel

import saa_core as saa
from saa_core.data.labelled import LabelledText
from saa_core.export import quantise, shrink
from saa_core.export.session import open_session
from tests.export.tiny import LABELS

OUTLIER = 60.0


def draw_texts(draw: random.Random, count: int, most: int = 30) -> list[str]:
    return [
        " ".join(f"w{draw.randrange(4, 97)}" for _ in range(draw.randint(1, most)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def examples(engine) -> list[LabelledText]:
    """Labels that float32 gives, but for one test text."""
    texts = draw_texts(random.Random(3), 60)
    given = [found.label for found in engine.classify(texts, cut=True)]
    other = next(label for label in LABELS if label != given[-1])
    splits = ["train"] * 20 + ["test"] * 40
    made = zip(texts, [*given[:-1], other], splits, strict=True)
    return [LabelledText(text, label, split, 0) for text, label, split in made]


@pytest.fixture(scope="module", params=shrink.WAYS)
def small(request, exported, examples, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    shrink.shrink(exported, folder, request.param, examples)
    return folder


def weights(folder: Path, name: str) -> Counter:
    graph = onnx.load(folder / name).graph
    return Counter(each.data_type for each in graph.initializer if len(each.dims) == 2)


def test_gates_head_and_reference_stay_in_float32(small, exported):
    """int8 are five products of each of four layers, all but what comes from GELU, and nothing else."""
    int8 = onnx.TensorProto.INT8
    assert weights(small, "model.onnx")[int8] == 4 * 5
    assert weights(small, "reference.onnx")[int8] == 0
    floats = {
        each.name
        for each in onnx.load(small / "model.onnx").graph.initializer
        if each.data_type == onnx.TensorProto.FLOAT
    }
    assert sum("gates." in name and "weight" in name for name in floats) >= 3 * 2


def test_it_answers_nearly_the_same(small, engine, examples):
    texts = [example.text for example in examples]
    found = saa.open_engine(small, threads=1).classify(texts, 0.5, 0.0, cut=True)
    expected = engine.classify(texts, 0.5, 0.0, cut=True)
    assert np.mean([a.label == b.label for a, b in zip(found, expected, strict=True)]) > 0.8
    work = [abs(a.token_share - b.token_share) for a, b in zip(found, expected, strict=True)]
    assert np.mean(work) < 0.05


def test_the_folder_says_what_it_costs(small, examples):
    """Counted here again, from its own answers."""
    about = json.loads((small / "saa.json").read_text())
    found = about["int8"]
    assert about["precision"] == "int8"
    assert (found["calibration_texts"], found["test_texts"]) == (20, 40)
    test = examples[20:]
    given = saa.open_engine(small, threads=1).classify([e.text for e in test], cut=True)
    right = [a.label == e.label for a, e in zip(given, test, strict=True)]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["accuracy_float32"] == pytest.approx(39 / 40)
    low, high = found["same_label_interval"]
    assert low < found["same_label"] <= high


def test_static_scales_are_in_the_file(small):
    kinds = Counter(node.op_type for node in onnx.load(small / "model.onnx").graph.node)
    static = json.loads((small / "saa.json").read_text())["int8"]["scales"] == "static"
    assert bool(kinds["DynamicQuantizeLinear"]) != static
    assert bool(kinds["QuantizeLinear"]) == static


def test_channels_are_evened_out_and_the_answer_stays(exported, engine):
    """A channel that is made far larger than the others comes down to them."""
    whole = ONNXModel(onnx.load(exported / "model.onnx"))
    whole.replace_gemm_with_matmul()
    model = whole.model
    feeds = shrink.feeds(engine, draw_texts(random.Random(4), 16))
    before = open_session(model.SerializeToString(), "graph", 1).run(None, dict(feeds[0]))
    sizes = quantise._sizes(model, feeds)
    assert len(quantise._from(model, quantise.NORMS)) == 4 * 2, (
        "what goes into q, k, v, and into the feed-forward"
    )
    for size in sizes.values():
        size[0] *= OUTLIER
    quantise._even_out(model, sizes)
    after = open_session(model.SerializeToString(), "graph", 1).run(None, dict(feeds[0]))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    by = [
        onnx.numpy_helper.to_array(each)
        for each in model.graph.initializer
        if each.name.endswith("_even_by")
    ]
    assert len(by) == 8
    assert all(each[0] < np.median(each) / 2 for each in by)


def test_what_ships_calibrates_where_there_are_no_texts(exported, engine, tmp_path):
    assert sum(len(each["input_ids"]) for each in shrink.feeds(engine)) == shrink.CALIBRATION
    shrink.shrink(exported, tmp_path)
    about = json.loads((tmp_path / "saa.json").read_text())
    assert about["int8"] == {"scales": "dynamic", "calibration_texts": 0}


def test_other_ways_are_refused_in_words(model, tmp_path):
    with pytest.raises(saa.PolicyError, match=r"int8='half'.*dynamic, static"):
        saa.export(model, tmp_path / "out", "half")
    assert not (tmp_path / "out").exists()
