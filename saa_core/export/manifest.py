"""saa.json: what an exported folder holds, checked. Needs no PyTorch.

A folder may come from anywhere, so every value has a range, and the files beside saa.json are those of
``FILES``, by these names alone and with the contents that it says.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saa_core.errors import ModelError, choice
from saa_core.files import write_json

FORMAT = 1
ABOUT, MODEL, REFERENCE, TOKENIZER = "saa.json", "model.onnx", "reference.onnx", "tokenizer.json"
FILES = (MODEL, REFERENCE, TOKENIZER)
PRECISIONS = ("float32", "int8")
MOST_BYTES = {ABOUT: 1 << 20, MODEL: (1 << 31) - 1, REFERENCE: (1 << 31) - 1, TOKENIZER: 1 << 28}
"""Larger files are not read; ONNX itself holds no more than 2 GiB in one."""
MOST_LAYERS, MOST_LABELS, MOST_TOKENS, MOST_NUMBERS = 1000, 10_000, 1 << 20, 1 << 40
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """What saa.json says.

    Args:
        task, model: names; ``family`` is the model's, ``gate`` says whose gates these are.
        labels: in the order of the probabilities.
        heads: attention heads of a layer.
        hidden: size of the states.
        weights: numbers in the matrices of each layer.
        gates: operations of the gate in front of each layer for one token; 0 where there is none.
        shares: lowest and highest share of the token work that the gates were trained for.
        share, margin: the defaults; share 1 drops nothing, margin 0 never asks the reference.
        longest: tokens that the task was trained and measured with.
        max_length: tokens that the model takes.
        precision: of the layers' products with weights, one of PRECISIONS; the reference's is float32.
        files: sha256 of each file.
        fingerprints: of what was exported, by side: sha256 of weights and gates, and their dtype.
        versions: of what exported it.
        evaluation: what was measured when the task was trained, in float32 and with PyTorch.
        int8: how it was made and what it costs (:mod:`saa_core.export.shrink`); empty in float32.
    """

    task: str
    model: str
    family: str
    gate: str
    labels: tuple[str, ...]
    heads: int
    hidden: int
    weights: tuple[int, ...]
    gates: tuple[int, ...]
    shares: tuple[float, float]
    share: float
    margin: float
    longest: int
    max_length: int
    precision: str
    files: Mapping[str, str]
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    int8: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("task", "model", "family", "gate"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a name")
        for name in ("fingerprints", "versions", "evaluation", "files", "int8"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be an object")
        labels = self.labels
        if not 2 <= len(labels) <= MOST_LABELS or not all(isinstance(x, str) for x in labels):
            raise ValueError(f"labels must be 2 to {MOST_LABELS:,} names")
        if len(set(labels)) < len(labels):
            raise ValueError("labels holds a name twice")
        if not 1 <= len(self.weights) <= MOST_LAYERS or len(self.gates) != len(self.weights):
            raise ValueError(f"weights and gates must be 1 to {MOST_LAYERS:,} numbers each")
        _whole("heads", self.heads, 1, MOST_LAYERS)
        _whole("hidden", self.hidden, 1, MOST_TOKENS)
        _whole("max_length", self.max_length, 1, MOST_TOKENS)
        _whole("longest", self.longest, 1, self.max_length)
        for name in ("weights", "gates"):
            for value in getattr(self, name):
                _whole(name, value, 0, MOST_NUMBERS)
        if len(self.shares) != 2:
            raise ValueError(f"shares={self.shares!r} must be the lowest and the highest share")
        for name, value in (("shares", self.shares[0]), ("shares", self.shares[1])):
            _number(name, value)
        _number("share", self.share)
        _number("margin", self.margin)
        if not (self.share == 1 or self.shares[0] <= self.share <= self.shares[1]):
            raise ValueError(f"share={self.share!r} lies outside of shares={self.shares!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(choice("precision", self.precision, PRECISIONS))
        if set(self.files) != set(FILES):
            raise ValueError(f"files={sorted(self.files)!r} must be {', '.join(FILES)}")
        for name, digest in self.files.items():
            if not (isinstance(digest, str) and DIGEST.fullmatch(digest)):
                raise ValueError(f"files[{name!r}]={digest!r} must be a sha256")

    @property
    def title(self) -> str:
        """Model and task, as everywhere."""
        return f"{self.model} + {self.task}"


def _whole(name: str, value: object, least: int, most: int) -> None:
    if not (type(value) is int and least <= value <= most):
        raise ValueError(f"{name}={value!r} must be a whole number from {least:,} to {most:,}")


def _number(name: str, value: object) -> None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (numeric and 0 <= value <= 1):  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be a number from 0 to 1")


def write_manifest(folder: Path, about: Manifest) -> None:
    write_json(folder / ABOUT, {"format": FORMAT} | asdict(about))


def read_manifest(folder: Path) -> Manifest:
    """The description of an exported folder.

    Raises:
        ModelError: the folder is no exported one, broken, or of another format.
    """
    try:
        about = dict(json.loads(read_bytes(folder, ABOUT)))
        version = about.pop("format", None)
        if version != FORMAT:
            raise ValueError(f"{ABOUT} has format {version!r}; this version reads {FORMAT}")
        for name in ("labels", "weights", "gates", "shares"):
            if not isinstance(about.get(name), list):
                raise ValueError(f"{name}={about.get(name)!r} must be a list")
            about[name] = tuple(about[name])
        return Manifest(**about)
    except (ValueError, TypeError, RecursionError) as error:
        raise _broken(folder, str(error)) from error


def read_checked(folder: Path, about: Manifest, name: str) -> bytes:
    """A file of the folder, which has to be the one that saa.json was written for.

    Raises:
        ModelError: it is missing, too large or another one.
    """
    data = read_bytes(folder, name)
    if hashlib.sha256(data).hexdigest() != about.files[name]:
        raise _broken(
            folder,
            f"{name} is not the file that {ABOUT} was written with: it was cut short or changed, or comes "
            "from another folder",
        )
    return data


def read_bytes(folder: Path, name: str) -> bytes:
    """A file that lies in the folder itself, up to MOST_BYTES.

    Raises:
        ModelError: it is missing, a link that leads out of the folder, or too large.
    """
    path = folder / name
    try:
        if not path.is_file():
            raise _broken(folder, f"it has no file {name}")
        if path.resolve().parent != folder.resolve():
            raise _broken(folder, f"{name} is a link that leads out of the folder")
        size = path.stat().st_size
        if size > MOST_BYTES[name]:
            raise _broken(
                folder, f"{name} has {size:,} bytes, and {MOST_BYTES[name]:,} is the most"
            )
        return path.read_bytes()
    except OSError as error:
        raise _broken(folder, f"{name} cannot be read: {error.strerror}") from error


def _broken(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"folder={str(folder)!r} is not an exported model that can be used: {why}; write one with "
        "saa export --task NAME --out FOLDER"
    )
