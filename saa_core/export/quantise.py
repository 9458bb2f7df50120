"""Products with weights in int8, by ONNX Runtime's quantiser: weights once, activations as they come.

Every column of a matrix has a scale of its own. What decides and what answers stays in float32: the
token gates, and the head. Embeddings stay too: they are looked up, not multiplied.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLOAT = ("gates.", "head.")
"""How the names of weights begin that stay in float32."""


def quantise(source: Path, target: Path) -> None:
    """Writes ``source`` with its products in int8 to ``target``."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=sorted(_kept(onnx.load(source))),
        extra_options={"MatMulConstBOnly": True},
    )


def _kept(model: Any) -> Iterator[str]:
    """Nodes that take a weight named like FLOAT, directly or through nodes that only reshape it; the
    quantiser first makes of each Gemm a MatMul with a name of its own."""
    origin = {each.name: each.name for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Transpose", "Reshape", "Identity", "Cast") and node.input:
            origin[node.output[0]] = origin.get(node.input[0], "")
        if any(origin.get(name, "").startswith(FLOAT) for name in node.input):
            yield from (node.name, f"{node.name}_MatMul")
