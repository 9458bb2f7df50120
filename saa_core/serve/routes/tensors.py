"""Tensors of the Open Inference Protocol, in JSON or behind it as bytes (the binary data extension).

Only the kinds that are served: texts (BYTES), FP32 and INT64. Sizes are checked before anything is read.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saa_core.errors import TextError

HEADER = "inference-header-content-length"
KINDS = {"FP32": np.float32, "INT64": np.int64}


def read_request(body: bytes, header: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON of a request and what stands behind it.

    Raises:
        TextError: it is none.
    """
    length = len(body)
    if header is not None:
        if not header.isdigit() or int(header) > len(body):
            raise TextError(
                "Inference-Header-Content-Length must be the length of the JSON in the body"
            )
        length = int(header)
    try:
        about = json.loads(body[:length].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TextError("the body is no JSON in UTF-8") from error
    if not isinstance(about, dict):
        raise TextError("the body must be a JSON object")
    return about, body[length:]


def read_texts(about: Mapping[str, Any], raw: bytes, most: int) -> list[str]:
    """The texts of a request's one input.

    Raises:
        TextError: there is another input, or it holds no texts, or too many.
    """
    inputs = about.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise TextError('inputs must hold one tensor, "text"')
    own = inputs[0]
    if own.get("name") != "text" or own.get("datatype") != "BYTES":
        raise TextError('inputs must hold one tensor: name "text", datatype "BYTES"')
    shape = own.get("shape")
    whole = (
        isinstance(shape, list) and shape and all(type(s) is int and 0 <= s <= most for s in shape)
    )
    count = int(np.prod(shape)) if whole else -1  # type: ignore[arg-type]
    if not whole or not 1 <= count <= most:
        raise TextError(f"inputs[0].shape must hold 1 to {most} texts")
    size = _parameters(own).get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != len(raw):
            raise TextError(
                "inputs[0].parameters.binary_data_size is not the size of what follows the JSON"
            )
        texts = _unpack(raw)
    else:
        texts = list(_flat(own.get("data")))
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise TextError(f"inputs[0] says {count} texts, and its data holds {len(texts)} values")
    return texts


def parameters(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a request says beside its inputs."""
    return _parameters(about)


def read_outputs(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The outputs that a request names; to be read before anything is computed.

    Raises:
        TextError: they are no list of objects, or do not each have a name of their own.
    """
    asked = about.get("outputs") or []
    if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
        raise TextError("outputs must be a list of objects")
    names = [each.get("name") for each in asked]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise TextError("outputs must name each output once")
    for each in asked:
        _parameters(each)
    return asked


def write_answer(
    head: Mapping[str, Any],
    found: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]],
    asked: Sequence[Mapping[str, Any]],
    binary_by_default: bool,
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow it.

    Args:
        found: texts, or an array, by name.
        asked: as :func:`read_outputs` gives it; where it is empty, all.

    Raises:
        TextError: it names one that there is not.
    """
    wanted = [(name, binary_by_default) for name in found]
    if asked:
        wanted = [
            (each["name"], bool(_parameters(each).get("binary_data", binary_by_default)))
            for each in asked
        ]
    outputs, tail = list[dict[str, Any]](), b""
    for name, binary in wanted:
        if name not in found:
            raise TextError(
                f"outputs names one that this model does not give; choose from: {', '.join(found)}"
            )
        values = found[name]
        if isinstance(values, np.ndarray):
            kind = next(kind for kind, dtype in KINDS.items() if values.dtype == dtype)
            shape, raw, data = list(values.shape), values.tobytes(), values.ravel().tolist()
        else:
            kind, shape, data = "BYTES", [len(values)], list(values)
            raw = b"".join(
                struct.pack("<I", len(text)) + text for text in (t.encode() for t in values)
            )
        own: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if binary:
            own["parameters"], tail = {"binary_data_size": len(raw)}, tail + raw
        else:
            own["data"] = data
        outputs.append(own)
    written = json.dumps({**head, "outputs": outputs}).encode()
    return written + tail, len(written) if tail else None


def _parameters(about: Mapping[str, Any]) -> Mapping[str, Any]:
    own = about.get("parameters") or {}
    if not isinstance(own, Mapping):
        raise TextError("parameters must be an object")
    return own


def _unpack(raw: bytes) -> list[str]:
    """Texts with their lengths in front."""
    found, at = list[str](), 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at) if at + 4 <= len(raw) else (len(raw),)
        at += 4
        if length > len(raw) - at:
            raise TextError("inputs[0] ends in the middle of a text")
        try:
            found.append(raw[at : at + length].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise TextError(f"inputs[0]: text {len(found)} is no UTF-8") from error
        at += length
    return found


def _flat(data: object, depth: int = 0) -> list[Any]:
    if not isinstance(data, list) or depth > 8:
        raise TextError("inputs[0].data must be a list of texts")
    found = list[Any]()
    for each in data:
        found += _flat(each, depth + 1) if isinstance(each, list) else [each]
    return found
