"""The 4-bit file of multilingual-e5-small (E5S1) to fp32 safetensors and a tokenizer that Transformers loads.

Knows the file alone: where it comes from stands in assets/models.toml. Little-endian:

    magic "E5S1", int32 version
    int32 x 7   hidden, layers, heads, feed-forward, vocabulary, positions, kinds of tokens
    float32     epsilon of the layer norms; int32 weights per block
    int32 x 5   pieces, and the ids of bos, eos, pad, unk; uint64 bytes of the pieces' text
    the pieces: uint32 x (pieces + 1) offsets, float32 x pieces scores, their text
    int32, uint32 entries and bytes of a table of replaced characters, and the table
    int32       tensors; of each: uint16 and name, uint8 kind, uint32 count, uint64 offset, uint64 bytes

Kind 0 is float32. Kind 1 is Q4_0: 32 weights in 18 bytes, a float16 scale and then 16 bytes whose low halves
are the first 16 weights; a weight is (half - 8) * scale. Found by reading the package's own engine.
"""

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from saa_core.errors import FetchError

MAGIC, VERSION, BLOCK = b"E5S1", 1, 32
BLOCK_BYTES = 2 + BLOCK // 2
FLOAT32, Q4_0 = 0, 1
MOST_LAYERS = 1000

Weights = NDArray[np.float32]

EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Names of the file by those of Transformers' BERT: of the model, and in a layer."""
SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True)
class Header:
    """Sizes of the model, and ids of its special tokens."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    kinds: int
    epsilon: float
    pieces: int
    bos: int
    eos: int
    pad: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor that the file must hold, by its name there."""
        E, F = self.hidden, self.feed_forward
        found: dict[str, tuple[int, ...]] = {
            "emb.word": (self.vocabulary, E),
            "emb.pos": (self.positions, E),
            "emb.type": (self.kinds, E),
            "emb.ln.w": (E,),
            "emb.ln.b": (E,),
        }
        sizes = dict.fromkeys(("q", "k", "v", "ao"), (E, E)) | {"fi": (F, E), "fo": (E, F)}
        for layer in range(self.layers):
            for part in PARTS:
                rows = sizes.get(part, (E,))
                found[f"l{layer}.{part}.w"], found[f"l{layer}.{part}.b"] = rows, rows[:1]
        return found

    def config(self) -> dict[str, Any]:
        """Of the model, as Transformers reads it."""
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "type_vocab_size": self.kinds,
            "layer_norm_eps": round(self.epsilon, 15),
            "pad_token_id": self.pad,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
            "dtype": "float32",
        }


class _Reader:
    """Reads numbers one after the other; a file that ends too early is refused."""

    def __init__(self, raw: memoryview, file: Path) -> None:
        self.raw, self.file, self.at = raw, file, 0

    def bytes(self, count: int) -> memoryview:
        if count < 0 or self.at + count > len(self.raw):
            raise FetchError(
                f"{self.file.name} is cut or damaged: {count} bytes are expected at byte {self.at} of "
                f"{len(self.raw)}"
            )
        self.at += count
        return self.raw[self.at - count : self.at]

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))


def convert(
    source: Path, tokenizer: Path, out: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes model.safetensors, config.json and the tokenizer's files into ``out``.

    Args:
        source: the E5S1 file.
        tokenizer: the tokenizer.json of the same model; its pieces must be those of the file.
        progress: takes (tensors done, tensors).

    Raises:
        FetchError: the file is no E5S1 file, is cut, or holds other tensors than its header says, or the
            tokenizer is another model's.
    """
    header, vocabulary, tensors = read(source, progress)
    _check_tokenizer(tokenizer, vocabulary)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    _write(out / "config.json", header.config())
    shutil.copy(tokenizer, out / "tokenizer.json")
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": header.positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **SPECIAL,
    }
    _write(out / "tokenizer_config.json", about)


def read(
    source: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[Header, list[str], dict[str, Weights]]:
    """Header, pieces and tensors of a file, the tensors by their names in Transformers' BERT.

    Raises:
        FetchError: see :func:`convert`.
    """
    raw = np.memmap(source, np.uint8, "r").data if source.stat().st_size else memoryview(b"")
    reader = _Reader(raw, source)
    header, text_bytes = _header(reader)
    ends = np.frombuffer(reader.bytes(4 * (header.pieces + 1)), "<u4").tolist()
    reader.bytes(4 * header.pieces)  # scores, which the tokenizer's own file has too
    text = bytes(reader.bytes(text_bytes))
    pieces = [text[a:b].decode("utf-8", "replace") for a, b in pairwise(ends)]
    _, table_bytes = reader.numbers("iI")
    reader.bytes(table_bytes)
    places = _places(reader)
    shapes = header.shapes()
    if set(places) != set(shapes):
        odd = sorted(set(places) ^ set(shapes))
        raise FetchError(f"{source.name} holds other tensors than its header says: {odd[:5]}")
    tensors: dict[str, Weights] = {}
    for done, (name, shape) in enumerate(shapes.items()):
        if progress is not None:
            progress(done, len(shapes))
        tensors[_renamed(name)] = _tensor(reader, name, places[name], shape)
    # Not in the file, and not used. Transformers would draw it anew at each load, so that no two were the same.
    tensors["pooler.dense.weight"] = np.zeros((header.hidden, header.hidden), np.float32)
    tensors["pooler.dense.bias"] = np.zeros(header.hidden, np.float32)
    if progress is not None:
        progress(len(shapes), len(shapes))
    return header, pieces, tensors


def _header(reader: _Reader) -> tuple[Header, int]:
    """The header, and how many bytes the pieces' text takes."""
    file = reader.file
    magic = bytes(reader.bytes(4))
    if magic != MAGIC:
        raise FetchError(f"{file.name} is no E5S1 file: it begins with {magic!r}, not {MAGIC!r}")
    (version,) = reader.numbers("i")
    sizes = reader.numbers("7i")
    epsilon, block = reader.numbers("fi")
    pieces, bos, eos, pad, _unk, text_bytes = reader.numbers("5iQ")
    if version != VERSION or block != BLOCK:
        raise FetchError(
            f"{file.name} has version {version} and blocks of {block} weights; {VERSION} and {BLOCK} "
            "are what can be read"
        )
    hidden, layers, heads, feed_forward, vocabulary, positions, kinds = sizes
    possible = min(*sizes, pieces) >= 1 and layers <= MOST_LAYERS
    if not possible or hidden % heads or hidden % BLOCK or feed_forward % BLOCK:
        raise FetchError(f"{file.name} has impossible sizes in its header: {sizes}")
    if pieces > vocabulary:
        raise FetchError(f"{file.name} has {pieces} pieces and embeddings for {vocabulary}")
    header = Header(
        hidden=hidden,
        layers=layers,
        heads=heads,
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        positions=positions,
        kinds=kinds,
        epsilon=epsilon,
        pieces=pieces,
        bos=bos,
        eos=eos,
        pad=pad,
    )
    return header, text_bytes


@dataclass(frozen=True)
class _Place:
    kind: int
    count: int
    offset: int
    size: int


def _places(reader: _Reader) -> dict[str, _Place]:
    (count,) = reader.numbers("i")
    found = {}
    for _ in range(count):
        (length,) = reader.numbers("H")
        name = bytes(reader.bytes(length)).decode("ascii", "replace")
        found[name] = _Place(*reader.numbers("BIQQ"))
    return found


def _renamed(name: str) -> str:
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    end = "weight" if kind == "w" else "bias"
    return f"encoder.layer.{layer.removeprefix('l')}.{PARTS[part]}.{end}"


def _tensor(reader: _Reader, name: str, place: _Place, shape: tuple[int, ...]) -> Weights:
    count = int(np.prod(shape))
    expected = {FLOAT32: 4 * count, Q4_0: count // BLOCK * BLOCK_BYTES}.get(place.kind)
    if expected is None:
        raise FetchError(f"{reader.file.name}: tensor {name} has the unknown kind {place.kind}")
    if (place.count, place.size) != (count, expected):
        raise FetchError(
            f"{reader.file.name}: tensor {name} has {place.count} weights in {place.size} bytes; "
            f"{count} in {expected} are expected"
        )
    reader.at = place.offset
    raw = reader.bytes(place.size)
    found = np.frombuffer(raw, "<f4") if place.kind == FLOAT32 else dequantise(raw)
    return found.astype(np.float32).reshape(shape)


def dequantise(raw: memoryview | bytes) -> Weights:
    """Q4_0 blocks to the weights that they stand for."""
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    found: Weights = (halves.astype(np.float32) - 8) * scale
    return found.reshape(-1)


def _check_tokenizer(file: Path, pieces: list[str]) -> None:
    try:
        table: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        own = [piece for piece, _score in table["model"]["vocab"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{file.name} is no tokenizer: {error}") from error
    if own != pieces:
        differ = sum(a != b for a, b in zip(own, pieces, strict=False))
        raise FetchError(
            f"{file.name} is the tokenizer of another model: {len(own)} pieces where the weights have "
            f"{len(pieces)}, {differ} of them different"
        )


def _write(file: Path, about: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(about, indent=1), encoding="utf-8")
