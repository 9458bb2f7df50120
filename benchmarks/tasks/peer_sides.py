"""What is compared on a task: the models that others deploy, and SAA's, exported once and used again.

The peers are the task's reference model as Transformers runs it (padded; eager, and by torch.compile) and the same
model exported by torch.onnx, which ONNX Runtime runs in float32 and in int8 (its dynamic quantiser as it comes) and
OpenVINO in float32, bfloat16 and int8 (calibrated by ONNX Runtime's static quantiser on training texts). Against
them: SAA in PyTorch and exported, the exported file in OpenVINO, and the reference packed and exported the same way,
so that what packing brings is told from what the gates bring. All tokenize in here.

A side that cannot run on a machine is left out, with the reason.
"""

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import saa_core as saa
from saa_core.data import labelled
from saa_core.export.engine import TEXTS, Engine, padded
from saa_core.export.export import write_graph
from saa_core.export.manifest import REFERENCE
from saa_core.export.quantise import quantise
from saa_core.export.session import Output, open_session
from saa_core.export.shrink import CALIBRATION, feeds, shrink
from saa_core.files import replacing
from saa_core.run.classify import classify, task_of
from saa_core.train.batches import pad_batch
from saa_core.train.masked import mean_states

Side = Callable[[Sequence[str]], list[int]]
"""Texts to the places of their labels."""
DENSE = "PyTorch, dense"
"""What every other side's labels are compared with."""
OPENVINO = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""Precisions that OpenVINO is asked for, and what it calls those of the products that are not int8."""
SIDES = (
    DENSE,
    "PyTorch, dense, compiled",
    "PyTorch, SAA",
    *(
        f"ONNX Runtime, {kind}, {precision}"
        for precision in ("float32", "int8")
        for kind in ("dense", "packed", "SAA")
    ),
    "ONNX Runtime, dense, bfloat16",
    *(f"OpenVINO, dense, {precision}" for precision in OPENVINO),
    "OpenVINO, SAA, bfloat16",
)


class PlainGraph(nn.Module):
    """The reference as it is usually exported: padded, [B, N] token ids and mask to [B, C]."""

    def __init__(self, model: saa.Model) -> None:
        super().__init__()
        self.encoder, self.head = model.hf.base_model, task_of(model).head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[:, :, None].float()
        return self.head((states * real).sum(1) / real.sum(1)).softmax(-1)


class Exported:
    """The files of one task in a folder of exported models; what is missing is made when it is asked for."""

    def __init__(self, task: str, model: str, work: Path) -> None:
        self.task, self.model, self.work = task, model, work
        self._sparse: saa.Model | None = None

    @property
    def sparse(self) -> saa.Model:
        if self._sparse is None:
            self._sparse = saa.load(self.model, task=self.task, side="sparse", device="cpu")
        return self._sparse

    @property
    def name(self) -> str:
        return Path(self.task).name

    def make(self) -> None:
        """All of them."""
        for precision in ("float32", "int8"):
            self.folder(precision)
            self.dense(precision)
            self.packed(precision)
        self.dense("calibrated")

    def folder(self, precision: str) -> Path:
        """What saa.export writes."""
        found = self.work / f"{self.name}-{precision}"
        if found.exists():
            return found
        if precision == "float32":
            return saa.export(self.sparse, found)
        part = found.with_suffix(".part")
        part.mkdir(exist_ok=True)
        shrink(self.folder("float32"), part, examples=self.examples)
        return part.rename(found)

    @property
    def examples(self) -> list[labelled.LabelledText]:
        """For training; what int8 costs is counted by the benchmark itself."""
        known = labelled.read(self.name) if self.name in labelled.TASKS else []
        return [example for example in known if example.split == "train"]

    def dense(self, precision: str) -> Path:
        """The reference as it is usually exported; ``calibrated`` is int8 with fixed scales."""
        return self._made(f"{self.name}-plain-{precision}.onnx", partial(self._plain, precision))

    def packed(self, precision: str) -> Path:
        """The reference in the form of the model with the gates; saa.export leaves it in float32."""
        source = self.folder("float32") / REFERENCE
        if precision == "float32":
            return source
        return self._made(f"{self.name}-packed-int8.onnx", self._packed)

    def _packed(self, target: Path) -> None:
        engine = saa.open_engine(self.folder("float32"))
        training = [example.text for example in self.examples][:CALIBRATION]
        inputs = [{name: each[name] for name in TEXTS} for each in feeds(engine, training)]
        quantise(self.folder("float32") / REFERENCE, target, inputs)

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        file = self.work / name
        if not file.exists():
            with replacing(file) as part:
                make(part)
        return file

    def _plain(self, precision: str, target: Path) -> None:
        if precision == "float32":
            graph = PlainGraph(self.sparse.reference_model)
            write_graph(graph.eval(), target)
        elif precision == "int8":
            _dynamic(self.dense("float32"), target)
        else:
            _static(self.dense("float32"), target, self.folder("float32"))


def _dynamic(source: Path, target: Path) -> None:
    """As most do it: everything that the quantiser takes, with its own settings."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


def _static(source: Path, target: Path, folder: Path) -> None:
    """Products with weights in int8 and scales that fit training texts: what OpenVINO runs in int8."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    engine = saa.open_engine(folder)
    known = labelled.read(engine.about.task)
    texts = [example.text for example in known if example.split == "train"][:CALIBRATION]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(engine.encode(texts, cut=True))

        def get_next(self) -> dict[str, Any] | None:
            ids = next(self.batches, None)
            return None if ids is None else padded([ids])

    quantize_static(
        *(source, target, Reader()),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        extra_options={"MatMulConstBOnly": True},
    )


class Padded:
    """A graph of token ids and mask, and the tokenizer of an engine."""

    def __init__(self, engine: Engine, session: Any) -> None:
        self.engine, self.session = engine, session

    def __call__(self, texts: Sequence[str]) -> list[int]:
        feeds = padded(self.engine.encode(texts, cut=True))
        return list(self.session.run(["probabilities"], feeds)[0].argmax(1).tolist())


class InOpenVINO:
    """A graph compiled by OpenVINO for short answers, with the way in which ONNX Runtime is called.

    Raises:
        ImportError: it is not installed.
    """

    def __init__(self, file: Path, precision: str, threads: int) -> None:
        import openvino

        config = {
            "INFERENCE_PRECISION_HINT": OPENVINO[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled = openvino.Core().compile_model(str(file), "CPU", config)

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        found = self.compiled(dict(feeds))
        return [np.asarray(found[self.compiled.output(name)]) for name in names]


class EngineInOpenVINO(Engine):
    """An exported folder whose graphs OpenVINO runs, in bfloat16."""

    def _open(self, name: str, inputs: Sequence[str], outputs: Sequence[Output]) -> Any:
        return InOpenVINO(self.folder / name, "bfloat16", self.threads or 1)


def by_transformers(model: saa.Model, hf: Any, texts: Sequence[str]) -> list[int]:
    """The reference as Transformers runs it."""
    task = task_of(model)
    found = model.tokenizer(list(texts), truncation=True, max_length=task.longest)["input_ids"]
    tokens, mask = pad_batch(found, model)
    with torch.inference_mode():
        states = hf(tokens, attention_mask=mask.long()).last_hidden_state
        return list(task.probabilities(mean_states(states, mask)).argmax(-1).tolist())


def by_pytorch(model: saa.Model, texts: Sequence[str]) -> list[int]:
    labels = task_of(model).labels
    found = classify(model, texts, batch=len(texts), cut=True)
    return [labels.index(prediction.label) for prediction in found]


def by_engine(engine: Engine, texts: Sequence[str]) -> list[int]:
    labels = engine.about.labels
    found = engine.classify(texts, batch=len(texts), cut=True)
    return [labels.index(prediction.label) for prediction in found]


def open_side(name: str, files: Exported, threads: int) -> Side:
    """One of SIDES, ready to run.

    Raises:
        ImportError, RuntimeError, SAAError: it does not run here; says why.
    """
    system, kind, *precisions = name.split(", ")
    precision = precisions[0] if precisions else "float32"
    if system == "PyTorch" and kind == "SAA":
        return partial(by_pytorch, files.sparse)
    if system == "PyTorch":
        plain = saa.load(files.model, task=files.task, side="dense", device="cpu")
        hf = saa.detach(plain)
        if precision != "compiled":
            return partial(by_transformers, plain, hf)
        cache = str(files.work.resolve() / "inductor")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)
        side = partial(by_transformers, plain, torch.compile(hf, dynamic=True))
        side(["one", "one more"])  # raises where it cannot be compiled
        return side
    if precision == "bfloat16" and system != "OpenVINO":
        raise RuntimeError("ONNX Runtime has no products in bfloat16 for x86 processors")
    folder = files.folder("int8" if precision == "int8" else "float32")
    if kind == "SAA":
        make = EngineInOpenVINO if system == "OpenVINO" else Engine
        return partial(by_engine, make(folder, threads))
    engine = saa.open_engine(folder, threads=threads)
    if system == "OpenVINO":
        file = files.dense("calibrated" if precision == "int8" else "float32")
        return Padded(engine, InOpenVINO(file, precision, threads))
    file = files.dense(precision) if kind == "dense" else files.packed(precision)
    return Padded(engine, open_session(file.read_bytes(), file.name, threads))


def open_sides(
    files: Exported, threads: int, names: Sequence[str] = SIDES
) -> tuple[dict[str, Side], dict[str, str]]:
    """Those that run here, by name, and why the others do not."""
    found: dict[str, Side] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            found[name] = open_side(name, files, threads)
        except (ImportError, RuntimeError, saa.SAAError) as error:
            refused[name] = (str(error).splitlines() or [type(error).__name__])[0]
    gc.collect()
    return found, refused
