"""Products with weights in int8, by ONNX Runtime's quantiser: weights once, activations as they come.

Every column of a matrix has a scale of its own. What decides and what answers stays in float32: the
token gates, and the head; and the second product of a feed-forward, which is the sensitive one. Embeddings stay
too: they are looked up, not multiplied.

A tensor of activations has one scale, so a channel that is far larger than the others costs them their
digits. What comes from a norm has such channels; they are made smaller before the product, and the rows of the
weights larger by as much (SmoothQuant, arXiv 2211.10438). How large they get is seen on texts.

Shapes: A tokens, I inputs of a product, O its outputs.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saa_core.export.session import Array, open_session

FLOAT = ("gates.", "head.")
"""How the names of weights begin that stay in float32."""
CARRIED = ("Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")
"""Nodes that choose or move rows and leave channels as they are."""
NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
SENSITIVE = ("Gelu", "Relu", "Swish")
"""What comes from these is multiplied in float32: most of the labels that int8 changes are changed there."""
EVEN = 0.5
"""How much of a channel's size the weights take over; SmoothQuant's own choice."""
Feeds = Sequence[Mapping[str, Array]]
"""Inputs of a graph, one batch each."""


def quantise(source: Path, target: Path, feeds: Feeds = (), *, static: bool = False) -> None:
    """Writes ``source`` with its products in int8 to ``target``.

    Args:
        feeds: batches on which the size of activations is seen; without any, nothing is evened out.
        static: activations get scales that fit ``feeds``, once and for all, instead of one per run.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.onnx_model import ONNXModel

    whole = ONNXModel(onnx.load(source))
    whole.replace_gemm_with_matmul()
    model = whole.model
    kept = set(_kept(model))
    for name in _from(model, SENSITIVE):
        kept |= {node.name for node, _ in _products(model)[name]}
    if feeds:
        _even_out(model, _sizes(model, feeds))
    ranges = _ranges(model, feeds) if static else {}
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / "model.onnx"
        onnx.save(model, part)
        quantize_dynamic(
            part,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(kept),
            extra_options={"MatMulConstBOnly": True},
        )
    if static:
        _fix_scales(target, ranges)


def _kept(model: Any) -> Iterator[str]:
    """Nodes that take a weight named like FLOAT, directly or through nodes that only reshape it."""
    origin = {each.name: each.name for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Transpose", "Reshape", "Identity", "Cast") and node.input:
            origin[node.output[0]] = origin.get(node.input[0], "")
        if any(origin.get(name, "").startswith(FLOAT) for name in node.input):
            yield node.name


def _products(model: Any) -> dict[str, list[tuple[Any, Any]]]:
    """Products with stored weights, those of FLOAT left out, as (node, weight), by their activations."""
    stored = {each.name: each for each in model.graph.initializer}
    found: dict[str, list[tuple[Any, Any]]] = {}
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "MatMul" else ""
        if weight in stored and not weight.startswith(FLOAT):
            found.setdefault(node.input[0], []).append((node, stored[weight]))
    return found


def _from(model: Any, kinds: Sequence[str]) -> set[str]:
    """Activations of products that come from a node of these kinds."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = set[str]()
    for name in _products(model):
        node = makers.get(name)
        while node is not None and node.op_type in CARRIED:
            # torch.nn.functional.embedding is a Gather of the rows of its first input.
            node = makers.get(node.input[0])
        if node is not None and node.op_type in kinds:
            found.add(name)
    return found


def _activations(model: Any, feeds: Feeds) -> Iterator[tuple[str, Array]]:
    """What goes into each product, [A, I], batch by batch."""
    import onnx

    names = list(_products(model))
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    session = open_session(seen.SerializeToString(), "graph", None)
    for feed in feeds:
        for name, value in zip(names, session.run(names, dict(feed)), strict=True):
            yield name, value.reshape(-1, value.shape[-1])


def _sizes(model: Any, feeds: Feeds) -> dict[str, Array]:
    """The largest absolute value of each channel, [I], by activation."""
    found: dict[str, Array] = {}
    for name, value_AI in _activations(model, feeds):
        largest = np.abs(value_AI).max(0)
        found[name] = np.maximum(found.get(name, largest), largest)
    return found


def _ranges(model: Any, feeds: Feeds) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each activation; zero lies between them."""
    found: dict[str, tuple[float, float]] = {}
    for name, value_AI in _activations(model, feeds):
        low, high = found.get(name, (0.0, 0.0))
        found[name] = (min(low, float(value_AI.min())), max(high, float(value_AI.max())))
    return found


def _even_out(model: Any, sizes: Mapping[str, Array]) -> None:
    """Divides channels that come from norms by a number of their own, and multiplies the weights by it."""
    from onnx import helper, numpy_helper

    products, before = _products(model), dict[str, Any]()
    for name in _from(model, NORMS):
        weights = [numpy_helper.to_array(weight) for _, weight in products[name]]
        rows_I = np.max([np.abs(weight).max(1) for weight in weights], 0)
        by_I = np.maximum(sizes[name], 1e-5) ** EVEN / np.maximum(rows_I, 1e-5) ** (1 - EVEN)
        by_I = (by_I / np.exp(np.log(by_I).mean())).astype(np.float32)
        even = f"{name}_even"
        model.graph.initializer.append(numpy_helper.from_array(1 / by_I, f"{even}_by"))
        for (node, stored), weight_IO in zip(products[name], weights, strict=True):
            stored.CopyFrom(numpy_helper.from_array(weight_IO * by_I[:, None], stored.name))
            node.input[0] = even
        first = products[name][0][0].name
        before[first] = helper.make_node("Mul", [name, f"{even}_by"], [even], name=even)
    nodes = [
        each
        for node in model.graph.node
        for each in (before.get(node.name), node)
        if each is not None
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _fix_scales(file: Path, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Replaces scales that a run finds by those of ``ranges``; what lies outside is cut off."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(file)
    for node in model.graph.node:
        if node.op_type != "DynamicQuantizeLinear":
            continue
        low, high = ranges[node.input[0]]
        step = np.float32(max(high - low, 1e-6) / 255)
        zero = np.uint8(np.clip(np.round(-low / step), 0, 255))
        values, scale, start = node.output
        model.graph.initializer.extend(
            (
                numpy_helper.from_array(np.array(step), scale),
                numpy_helper.from_array(np.array(zero), start),
            )
        )
        node.CopyFrom(
            helper.make_node(
                "QuantizeLinear", [node.input[0], scale, start], [values], name=node.name
            )
        )
    onnx.save(model, file)
