"""Writes a task's model as a folder that needs no PyTorch: graphs, tokenizer and saa.json.

model.onnx is the side with the token gates, which are part of the graph; reference.onnx is the task's reference
model. The folder gets its name when all of it is there.
"""

import contextlib
import importlib.metadata
import logging
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saa_core.data.labelled import LabelledText
from saa_core.errors import ModelError, PolicyError, SAAError, choice
from saa_core.export.graph import DenseGraph, SparseGraph
from saa_core.export.manifest import (
    ABOUT,
    FILES,
    MODEL,
    REFERENCE,
    TOKENIZER,
    Manifest,
    write_manifest,
)
from saa_core.export.shrink import WAYS, digest, shrink
from saa_core.files import flush, shorten
from saa_core.model import Model, fingerprint
from saa_core.run.flops import layer_weights
from saa_core.run.varlen import drops_tokens, packing_of, token_gates
from saa_core.task import Task

OPSET = 20
PACKAGES = ("saa-core", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")


def export(
    model: Model,
    folder: str | os.PathLike[str],
    int8: bool | str = False,
    examples: Sequence[LabelledText] = (),
) -> Path:
    """Writes a classification model with its token gates for :func:`saa_core.open_engine`.

    Args:
        model: loaded for a task, with its gates: ``load("minilm", task=...)``. Pair gates stay behind.
        folder: where to; one that was exported before is replaced, anything else is left alone.
        int8: the layers' products with weights in int8, which is faster and changes a few labels; True or
            "dynamic", or "static" (see :mod:`saa_core.export.shrink`). What the reference answers stays in
            float32.
        examples: labelled texts of the task, as :func:`saa_core.data.labelled.read` gives them: int8 is
            calibrated on those for training, and the folder says what it costs on those for tests.

    Returns:
        The folder.

    Raises:
        ModelError: the model is a language model, was loaded for no task or without its gates, or has
            no tokenizer that can be stored.
        PolicyError: the task's policy leaves out pairs, ``int8`` is no choice, or the folder holds
            something else.
        SAAError: ONNX is not installed.
    """
    task, way = _task(model), _way(int8)
    _needed_packages()
    target = Path(folder)
    _refuse_other(target)
    with _new_folder(target) as part:
        if way is None:
            _write(model, task, part)
        else:
            with tempfile.TemporaryDirectory(dir=target.parent) as whole:
                _write(model, task, Path(whole))
                with _quiet():
                    shrink(Path(whole), part, way, examples)
    return target


def _way(int8: bool | str) -> str | None:
    """One of WAYS, or None for float32."""
    if isinstance(int8, bool):
        return WAYS[0] if int8 else None
    if int8 not in WAYS:
        raise PolicyError(choice("int8", int8, WAYS))
    return int8


def _write(model: Model, task: Task, folder: Path) -> None:
    reference = model.reference_model
    write_graph(SparseGraph(model).eval(), folder / MODEL)
    write_graph(DenseGraph(reference).eval(), folder / REFERENCE)
    (folder / TOKENIZER).write_text(model.tokenizer.backend_tokenizer.to_str(), "utf-8")
    write_manifest(folder, _describe(model, reference, task, folder))


def _task(model: Model) -> Task:
    """The task of a model that can be exported."""
    name = model.spec.title
    if model.causal:
        raise ModelError(
            f"model={name!r} is a language model; only encoders with a task can be exported, such as "
            'saa_core.load("minilm", task="questions")'
        )
    task = model.task
    if task is None:
        raise ModelError(
            f"model={name!r} was loaded for no task; load it with one, such as "
            'saa_core.load("minilm", task="questions")'
        )
    if task.side == "dense" or not drops_tokens(model):
        raise ModelError(
            f"model={name!r} is the task's reference model, which has no token gates; load it with "
            "side='sparse'"
        )
    if model.dtype != torch.float32:
        raise ModelError(
            f"model={name!r} has weights in {model.dtype}; load it with dtype=torch.float32"
        )
    if getattr(model.tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"tokenizer={type(model.tokenizer).__name__} cannot be stored; load the fast one of the "
            "model with AutoTokenizer"
        )
    policy = task.policy
    if policy.aim < 1 or policy.force:
        raise PolicyError(
            f"policy={policy!s}: pair gates and forced pairs are not exported; choose a policy that "
            "drops tokens only"
        )
    return task


def _needed_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SAAError(
            f"export needs {error.name}, which is not installed; install it with: pip install "
            '"saa-core[onnx]"'
        ) from error


def _refuse_other(target: Path) -> None:
    """Only an exported or an empty folder is replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink():
        there = {path.name for path in target.iterdir()}
        if not there or (ABOUT in there and there <= {ABOUT, *FILES}):
            return
    raise PolicyError(
        f"folder={str(target)!r} is there and was not written by saa export; choose a new one"
    )


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(8)
    part, old = (
        target.with_name(f".{shorten(target.name, 200)}-{mark}-{kind}") for kind in ("new", "old")
    )
    part.mkdir()
    try:
        yield part
        for file in part.iterdir():
            flush(file)
        flush(part)
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
        flush(target.parent)
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_graph(graph: nn.Module, file: Path) -> None:
    """Traces a graph with texts of several lengths and writes it."""
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 0], [1, 2, 0, 0, 0]])
    mask = (ids > 0).long()
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    table = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    shapes: dict[str, Any] = {"input_ids": table, "attention_mask": table}
    outputs = ["probabilities"]
    if isinstance(graph, SparseGraph):
        given |= {"share": torch.tensor(0.5), "margin": torch.tensor(0.1)}
        shapes |= {"share": {}, "margin": {}}
        outputs += ["unclear", "layers"]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            *(graph, ()),
            kwargs=given,
            dynamic_shapes=shapes,
            input_names=list(given),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(file, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What exporter and quantiser have to say is for those who write them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _describe(model: Model, reference: Model, task: Task, folder: Path) -> Manifest:
    packing, policy = packing_of(model), task.policy
    gates = token_gates(packing)
    config: Any = packing.layers[0].attention.config
    share = 1.0 if policy.tokens is None else float(policy.tokens)
    sides = {"sparse": fingerprint(model), "dense": fingerprint(reference)}
    return Manifest(
        task=task.name,
        model=model.spec.name,
        family=model.spec.family,
        gate=model.spec.gate,
        labels=task.labels,
        heads=int(config.num_attention_heads),
        hidden=int(model.hf.config.hidden_size),
        weights=tuple(layer_weights(layer.module) for layer in packing.layers),
        gates=tuple(0 if gate is None else gate.flops_per_token for gate in gates),
        shares=task.shares,
        share=share,
        margin=float(task.least_margin(policy)),
        longest=min(task.longest, model.max_length),
        max_length=model.max_length,
        precision="float32",
        files={name: digest(folder / name) for name in FILES},
        fingerprints={side: vars(found) for side, found in sides.items()},
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        evaluation=dict(task.evaluation),
    )
