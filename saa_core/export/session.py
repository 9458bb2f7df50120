"""An ONNX file of an exported folder as a session of ONNX Runtime. Needs no PyTorch, and runs nothing.

Only what lies in the file itself is used: weights that the file would fetch from other files are refused.

Shapes: B texts, N tokens of the longest one, C labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saa_core.errors import ModelError, SAAError

Array = NDArray[Any]
MISSING = (
    "the engine needs ONNX Runtime and tokenizers, which are not installed; install them with: "
    'pip install "saa-core[onnx]"'
)
GRAPH, INITIALIZER, DATA_LOCATION = 7, 5, 14
"""Numbers of fields: ModelProto.graph, GraphProto.initializer, TensorProto.data_location."""


@dataclass(frozen=True)
class Output:
    """What a graph has to give: its name, and its shape, in which a word is any number."""

    name: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class Answered:
    """The answers for a batch of texts.

    Args:
        probabilities: [B, C], those of the reference where it was asked.
        own: those of the model with the gates, [B, C].
        layers: how many layers computed each token, int64 [B, N]; 0 is padding.
        asked: texts that the reference answered, bool [B].
    """

    probabilities: Array
    own: Array
    layers: Array
    asked: Array


def open_session(data: bytes, name: str, threads: int | None) -> Any:
    """A session on the CPU.

    Args:
        threads: for one run; ONNX Runtime's own choice by default.

    Raises:
        ModelError: the file is no graph that ONNX Runtime takes.
        SAAError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise SAAError(MISSING) from error
    try:
        elsewhere = any(_external(data))
    except (IndexError, ValueError) as error:
        raise ModelError(f"{name} is no ONNX file: {error}") from error
    if elsewhere:
        raise ModelError(f"{name} asks for weights from other files; such a file is not opened")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say comes as an exception
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no other base
        raise ModelError(
            f"{name} cannot be opened by ONNX Runtime: {_first_line(error)}"
        ) from error


def check_graph(session: Any, name: str, inputs: Sequence[str], outputs: Sequence[Output]) -> None:
    """That a graph takes and gives what the engine expects.

    Raises:
        ModelError: says what differs.
    """
    found = tuple(sorted(each.name for each in session.get_inputs()))
    if found != tuple(sorted(inputs)):
        raise ModelError(f"{name} takes {', '.join(found)}; expected {', '.join(sorted(inputs))}")
    given = {each.name: each.shape for each in session.get_outputs()}
    for output in outputs:
        shape = given.get(output.name)
        if shape is None:
            raise ModelError(f"{name} gives {', '.join(given)}; expected {output.name} as well")
        fits = len(shape) == len(output.shape) and all(
            not (isinstance(asked, int) and isinstance(size, int) and size != asked)
            for size, asked in zip(shape, output.shape, strict=False)
        )
        if not fits:
            raise ModelError(
                f"{name} gives {output.name} of shape {list(shape)}; expected {list(output.shape)}"
            )


def run_graph(
    session: Any, name: str, outputs: Sequence[Output], feeds: Mapping[str, Array], **sizes: int
) -> list[Array]:
    """Runs a graph once, and checks the shapes of what comes.

    Args:
        sizes: what the words in the outputs' shapes stand for.

    Raises:
        ModelError: the graph fails, or gives something of another shape.
    """
    try:
        found = session.run([output.name for output in outputs], dict(feeds))
    except Exception as error:  # its exceptions have no other base
        raise ModelError(f"{name} failed in ONNX Runtime: {_first_line(error)}") from error
    for output, value in zip(outputs, found, strict=True):
        shape = tuple(sizes.get(str(size), size) for size in output.shape)
        if value.shape != shape or (value.dtype.kind == "f" and not np.isfinite(value).all()):
            raise ModelError(
                f"{name} gave {output.name} of shape {list(value.shape)} or numbers that are none; "
                f"expected {list(shape)}"
            )
    return list(found)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _external(data: bytes) -> Iterator[bool]:
    """Whether each tensor of a graph lies in another file.

    Raises:
        IndexError, ValueError: it is no ONNX file.
    """
    for number, graph in _fields(memoryview(data)):
        if number == GRAPH and isinstance(graph, memoryview):
            for inner, tensor in _fields(graph):
                if inner == INITIALIZER and isinstance(tensor, memoryview):
                    yield any(n == DATA_LOCATION and v for n, v in _fields(tensor))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and content of each field of a protobuf message; numbers of fixed size are left out."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind == 2:
            size, at = _varint(data, at)
            if size > len(data) - at:
                raise ValueError("it ends too early")
            yield key >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"kind {kind} of a field is not known")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has too many bytes")
