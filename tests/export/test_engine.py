"""The engine by itself: without PyTorch, with hostile folders, with arguments that cannot be."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import saa_core as saa
from saa_core.cli.main import main
from saa_core.run.classify import answers, classify

ROOT = Path(__file__).parent.parent.parent
TEXTS = ["w4 w5 w6 w7 w8", "w50 w60 w70", "w10 w20 w30 w40 w50 w60 w70 w80"]
BLOCKED = "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers'])\n"
USE = """
import json, sys
import saa_core as saa
engine = saa.open_engine(sys.argv[1], threads=1)
found = engine.classify(json.loads(sys.argv[2]), 0.5, 0.3)
print(json.dumps([[p.label, p.dense, p.token_share] for p in found]))
"""


def expected(model: saa.Model) -> list[list[object]]:
    policy = saa.Policy(mass=1.0, tokens=0.5, guard=saa.Guard(missed_mass=None, margin=0.3))
    found = classify(model, TEXTS, policy)
    return [[p.label, p.dense, pytest.approx(p.token_share)] for p in found]


def run(code: str, folder: Path, python: str = sys.executable, **environment: str) -> list:
    done = subprocess.run(
        [python, "-c", code, str(folder), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_runs_where_pytorch_cannot_be_imported(model, exported, tmp_path):
    assert run(BLOCKED + USE, exported) == expected(model)
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    code = f"""
import contextlib, io
from saa_core.cli.main import main
given = ["classify", "--engine", "onnxruntime", "--model", sys.argv[1], {str(file)!r}]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert main(given) == 0
import saa_core as saa
trace = saa.open_engine(sys.argv[1], threads=1).run("w4 w5 w6")
saa.Store({str(tmp_path / "store")!r}).add(trace)
import json
print(json.dumps([line.split("\\t")[0] for line in printed.getvalue().splitlines()]))
"""
    default = list(classify(model, TEXTS))
    assert run(BLOCKED + code, exported) == [prediction.label for prediction in default]


@pytest.mark.long
def test_it_runs_in_an_environment_without_pytorch(model, exported, tmp_path):
    """A fresh one, with the engine's packages from the index and nothing else."""
    venv.create(tmp_path / "fresh", with_pip=True)
    python = str(tmp_path / "fresh" / "bin" / "python")
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = ("numpy", "onnxruntime", "platformdirs", "tokenizers")
    needed = [pin for pin in pins if pin.startswith(tuple(f"{name}==" for name in wanted))]
    install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *needed]
    subprocess.run(install, check=True, env={**os.environ, "PYTHONPATH": ""})
    missing = "import importlib.util; assert not importlib.util.find_spec('torch')\n"
    assert run(missing + USE, exported, python, PYTHONPATH=str(ROOT)) == expected(model)


def about(folder: Path, **changes: object) -> None:
    """Changes saa.json."""
    file = folder / "saa.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def put(folder: Path, name: str, data: bytes) -> None:
    """Puts another file in the place of one, and its sha256 into saa.json."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "saa.json").read_text())["files"]
    about(folder, files=files | {name: hashlib.sha256(data).hexdigest()})


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    outside.write_bytes((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(outside)


def constant(*outputs: tuple[str, np.ndarray]) -> bytes:
    """A graph that takes what the engine gives and gives always the same."""
    takes = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("input_ids", TensorProto.INT64, ["B", "N"]),
            ("attention_mask", TensorProto.INT64, ["B", "N"]),
            ("share", TensorProto.FLOAT, []),
            ("margin", TensorProto.FLOAT, []),
        )
    ]
    gives = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
        )
        for name, value in outputs
    ]
    nodes = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value, name))
        for name, value in outputs
    ]
    graph = helper.make_graph(nodes, "constant", takes, gives)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def outputs(probabilities: np.ndarray) -> bytes:
    return constant(
        ("probabilities", probabilities.astype(np.float32)),
        ("unclear", np.zeros(1, bool)),
        ("layers", np.ones((1, 5), np.int64)),
    )


def elsewhere(folder: Path) -> None:
    """A graph whose weights lie in another file, which is there."""
    graph = onnx.load(folder / "model.onnx")
    first = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    (folder / "weights.bin").write_bytes(first.raw_data)
    first.ClearField("raw_data")
    first.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0")):
        first.external_data.add(key=key, value=value)
    put(folder, "model.onnx", graph.SerializeToString())


def huge_weights(folder: Path) -> None:
    """Weights that say that they are a million times as large."""
    graph = onnx.load(folder / "model.onnx")
    first = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    first.dims[0] <<= 20
    put(folder, "model.onnx", graph.SerializeToString())


def huge_answer(folder: Path) -> None:
    """A graph that would fill 4 PiB with its answer."""
    graph = onnx.load_from_string(outputs(np.zeros((1, 3))))
    shape = onnx.numpy_helper.from_array(np.array([1 << 30, 1 << 20], np.int64), "shape")
    graph.graph.initializer.append(shape)
    del graph.graph.node[0]
    graph.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["probabilities"]))
    put(folder, "model.onnx", graph.SerializeToString())


def cut_short(folder: Path) -> None:
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])


def cut_short_and_signed(folder: Path) -> None:
    whole = (folder / "model.onnx").read_bytes()
    put(folder, "model.onnx", whole[: len(whole) // 2])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda f: [file.unlink() for file in f.iterdir()], "it has no file saa.json"),
    "no json": (lambda f: (f / "saa.json").write_text("{"), "not an exported model"),
    "a list": (lambda f: (f / "saa.json").write_text("[]"), "format None"),
    "deep": (lambda f: (f / "saa.json").write_text("[" * 100_000), "not an exported model"),
    "huge": (lambda f: (f / "saa.json").write_text(" " * 2_000_000), "is the most"),
    "other format": (lambda f: about(f, format=99), "format 99; this version reads 1"),
    "unknown field": (lambda f: about(f, run="rm"), "run"),
    "path": (lambda f: about(f, files={"../../etc/passwd": "0" * 64}), "must be model.onnx"),
    "link": (link_out, "link that leads out of the folder"),
    "cut short": (cut_short, "was cut short or changed"),
    "cut short, signed": (cut_short_and_signed, "model.onnx"),
    "another's": (
        lambda f: shutil.copy(f / "reference.onnx", f / "model.onnx"),
        "comes from another folder",
    ),
    "another's, signed": (
        lambda f: put(f, "model.onnx", (f / "reference.onnx").read_bytes()),
        "model.onnx takes attention_mask, input_ids; expected",
    ),
    "no graph": (lambda f: put(f, "model.onnx", b"PK\x03\x04 nothing"), "model.onnx"),
    "no tokenizer": (lambda f: put(f, "tokenizer.json", b"{}"), "tokenizer.json is no tokenizer"),
    "huge weights": (huge_weights, "model.onnx cannot be opened by ONNX Runtime"),
    "huge answer": (huge_answer, "model.onnx"),
    "weights elsewhere": (elsewhere, "asks for weights from other files"),
    "many layers": (lambda f: about(f, weights=[1] * 5000, gates=[0] * 5000), "1 to 1,000"),
    "huge layers": (lambda f: about(f, weights=[2**60] * 4), "weights=1152921504606846976"),
    "long texts": (lambda f: about(f, max_length=10**15), "max_length=1000000000000000"),
    "longer than it takes": (lambda f: about(f, longest=500), "longest=500"),
    "true": (lambda f: about(f, heads=True), "heads=True"),
    "no share": (lambda f: about(f, share=float("nan")), "share=nan must be a number"),
    "other labels": (lambda f: about(f, labels=["a", "b"]), r"expected \['B', 2\]"),
    "one label twice": (lambda f: about(f, labels=["a", "a", "b"]), "holds a name twice"),
    "no labels": (lambda f: about(f, labels="bad"), "labels='bad' must be a list"),
    "precision": (lambda f: about(f, precision="int2"), "int2.* choose one of: float32, int8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_in_words(name, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    spoil, why = BAD[name]
    spoil(copy)
    with pytest.raises(saa.ModelError, match=why) as raised:
        saa.open_engine(copy)
    assert "copy" in str(raised.value), "it names the folder"


def test_what_is_no_folder_is_refused(tmp_path):
    for given in (tmp_path / "nothing", Path(__file__)):
        with pytest.raises(saa.ModelError, match=r"has no file saa\.json|cannot be read"):
            saa.open_engine(given)


@pytest.mark.parametrize(
    "graph",
    [
        outputs(np.full((7, 3), 1 / 3)),
        outputs(np.full((1, 3), np.nan)),
        outputs(np.zeros((1, 3, 9))),
        constant(("probabilities", np.zeros((1, 3), np.float32))),
    ],
    ids=["other batch", "no numbers", "other shape", "too little"],
)
def test_a_graph_that_answers_nonsense_is_refused(graph, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    put(copy, "model.onnx", graph)
    with pytest.raises(saa.ModelError, match=r"model\.onnx g"):
        saa.open_engine(copy).classify(["w4 w5 w6"], margin=0)


def test_a_tokenizer_of_another_model_is_refused_when_it_shows(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    words = json.loads((copy / "tokenizer.json").read_text())
    words["model"]["vocab"]["w9"] = 10**6
    put(copy, "tokenizer.json", json.dumps(words).encode())
    with pytest.raises(saa.ModelError, match=r"model\.onnx failed in ONNX Runtime"):
        saa.open_engine(copy).classify(["w9"])


def test_arguments_are_refused_in_words(engine, exported):
    for given, why in (
        ({"share": 0.01}, "trained for shares from 0.2 to 0.95"),
        ({"share": "half"}, "share='half' must be a number from 0 to 1"),
        ({"margin": 1.5}, "margin=1.5 must be a number from 0 to 1"),
        ({"batch": 0}, "batch=0 must be a whole number"),
    ):
        with pytest.raises(saa.PolicyError, match=why):
            engine.classify(["w4"], **given)
    with pytest.raises(saa.PolicyError, match="texts is one string"):
        engine.classify("w4 w5")
    with pytest.raises(saa.PolicyError, match="threads=0"):
        saa.open_engine(exported, threads=0)
    for text, why in (
        (" ", r"texts\[1\] is empty"),
        ("w4 \ud800", "lone surrogate"),
        ("w4 " * 300, r"texts\[1\] has 302 tokens, and tiny takes at most 256"),
    ):
        with pytest.raises(saa.TextError, match=why):
            engine.classify(["w5", text])
    assert engine.classify([]) == []


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named(package, exported, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(saa.SAAError, match=r"pip install \"saa-core\[onnx\]\""):
        saa.open_engine(exported)


def test_to_export_needs_onnx(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(saa.SAAError, match=r"export needs onnxscript.*saa-core\[onnx\]"):
        saa.export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_does_not_run_is_refused_before_anything_is_loaded(tmp_path, capsys):
    base = ["export", "--task", "questions", "--out", str(tmp_path / "out")]
    for more, why in (
        (["--bf16"], "ONNX Runtime multiplies nothing in bfloat16 on a CPU; choose --int8"),
        (["--data", "mine.csv"], "--data is for --int8, which it calibrates"),
    ):
        assert main([*base, *more]) == 1
        assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(exported, tmp_path, capsys):
    base = ["classify", "--engine", "onnxruntime", "--model", str(exported)]
    file = tmp_path / "text.txt"
    file.write_text(TEXTS[0])
    assert main([*base, str(file), "--tokens", "0.5", "--margin", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.out.split()[0] in ("bad", "fair", "good")
    assert "work done:" in printed.err
    for more, why in (
        (["--task", "questions"], "--task and --engine onnxruntime exclude each other"),
        (["--policy", "mine.json"], "--policy and --engine onnxruntime exclude each other"),
        (["--device", "cuda"], "--device and --engine onnxruntime exclude each other"),
        (["--tokens", "0.01"], "trained for shares from 0.2 to 0.95"),
    ):
        assert main([*base, str(file), *more]) == 1
        assert why in capsys.readouterr().err
    file.write_text("w4 " * 60)
    assert main([*base, str(file)]) == 0
    assert "1 of 1 text is longer than 40 tokens and cut there" in capsys.readouterr().err
    assert main(["classify", str(file)]) == 1
    assert "--task is missing" in capsys.readouterr().err
    assert main([*base[:-1], "nothing", str(file)]) == 1
    assert "folder='nothing' is not an exported model" in capsys.readouterr().err


def test_the_reference_alone(engine, model):
    """What answers in place of the gates: labels and probabilities of the reference, at dense's cost."""
    ids = engine.encode(["w5 w6 w7", "w8"])
    found = engine.predict_dense(ids)
    expected = answers(model.reference_model, ids)
    for own, row in zip(found, expected.probabilities.tolist(), strict=True):
        assert own.dense
        assert own.token_share == own.flops_share == 1
        assert list(own.probabilities.values()) == pytest.approx(row, abs=1e-5)
    assert engine.predict(ids, 1.0, 0.0)[0].tokens == 5
    with pytest.raises(saa.PolicyError):
        engine.predict(ids, 0.01, 0.0)
