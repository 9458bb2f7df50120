"""Runs an exported folder by ONNX Runtime, without PyTorch: texts -> labels, as ``saa_core.run.classify`` does.

The reference is opened when a margin first asks for it.

Shapes: B texts, N tokens of the longest one, L layers, C labels.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saa_core.errors import ModelError, PolicyError, SAAError, TextError, check_text
from saa_core.export.manifest import (
    MODEL,
    REFERENCE,
    TOKENIZER,
    Manifest,
    read_checked,
    read_manifest,
)
from saa_core.export.session import (
    MISSING,
    Answered,
    Array,
    Output,
    check_graph,
    open_session,
    run_graph,
)
from saa_core.types import Prediction

if TYPE_CHECKING:
    from saa_core.trace.trace import Trace

TEXTS = ("input_ids", "attention_mask")
ANSWERS = "probabilities"


class Engine:
    """A task's model with its token gates, from a folder that ``saa export`` wrote; threads may share it.

    Use :func:`open_engine`.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.folder, self.threads = folder, threads
        self.about: Manifest = read_manifest(folder)
        labels = len(self.about.labels)
        self._lock, self._reference_session = threading.Lock(), None
        self._answers = (Output(ANSWERS, ("B", labels)),)
        self._all = (*self._answers, Output("unclear", ("B",)), Output("layers", ("B", "N")))
        self._session = self._open(MODEL, (*TEXTS, "share", "margin"), self._all)
        tokenizer = read_checked(folder, self.about, TOKENIZER)
        try:
            self.tokenizer = _tokenizer(tokenizer, None)
            self._cutting = _tokenizer(tokenizer, self.about.longest)
        except ModelError as error:
            raise ModelError(f"folder={str(folder)!r}: {error}") from error

    def classify(
        self,
        texts: Sequence[str],
        share: float | None = None,
        margin: float | None = None,
        *,
        batch: int = 32,
        cut: bool = False,
    ) -> list[Prediction]:
        """Labels texts, those of similar length together; the answers are in the texts' order.

        Args:
            share: of the token work to do; 1 drops nothing; the task's default by default.
            margin: the reference answers where the two most probable labels are closer than this;
                0 never asks it; the task's default by default.
            batch: texts at a time.
            cut: cut texts to the length that the task was trained and measured with; a text that is
                too long for the model is refused otherwise.

        Raises:
            TextError: a text is empty, not valid Unicode, or too long.
            PolicyError: ``share`` is one that the gates were not trained for, another value is out of
                its range, or ``texts`` is one string.
            ModelError: the folder's files fail.
        """
        if isinstance(texts, str):
            raise PolicyError("texts is one string; give a list of texts")
        if not (isinstance(batch, int) and batch >= 1):
            raise PolicyError(f"batch={batch!r} must be a whole number >= 1")
        share, margin = self.settings(share, margin)
        ids = self.encode(texts, cut=cut)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        found: dict[int, Prediction] = {}
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            answered = self.answer([ids[index] for index in part], share, margin)
            found |= zip(part, self._predictions(answered, share), strict=True)
        return [found[index] for index in range(len(ids))]

    def run(self, text: str, share: float | None = None, margin: float | None = None) -> "Trace":
        """What was done with one text, as a summary that a store takes: tokens that each layer kept,
        labels, their probabilities.

        Raises:
            TextError, PolicyError, ModelError: see :meth:`classify`.
        """
        from saa_core.export.record import trace_of  # only who asks for it waits for it

        share, margin = self.settings(share, margin)
        check_text(text, "text")
        encoded = self.tokenizer.encode(text)
        self._check_lengths([encoded.ids])
        answered = self.answer([encoded.ids], share, margin)
        spent = self._predictions(answered, share)[0].flops_share - float(answered.asked[0])
        return trace_of(self.about, text, encoded, answered, share, margin, spent, self.threads)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included, whether or not the model takes so many."""
        return [len(encoded.ids) for encoded in self.tokenizer.encode_batch_fast(list(texts))]

    def encode(self, texts: Sequence[str], *, cut: bool = False) -> list[list[int]]:
        """Token ids of texts, special tokens included.

        Raises:
            TextError: a text is empty, not valid Unicode, or too long.
        """
        for index, text in enumerate(texts):
            check_text(text, f"texts[{index}]")
        tokenizer = self._cutting if cut else self.tokenizer
        ids = [encoded.ids for encoded in tokenizer.encode_batch_fast(list(texts))]
        self._check_lengths(ids)
        return ids

    def answer(self, ids: Sequence[Sequence[int]], share: float, margin: float) -> Answered:
        """Answers for token ids, one batch; the settings are checked elsewhere.

        Raises:
            ModelError: the folder's files fail.
        """
        feeds = padded(ids)
        sizes = {"B": len(ids), "N": feeds["input_ids"].shape[1]}
        settings = {"share": np.array(share, np.float32), "margin": np.array(margin, np.float32)}
        own, asked, layers = run_graph(
            self._session, MODEL, self._all, {**feeds, **settings}, **sizes
        )
        probabilities = own.copy()
        if asked.any():
            again = np.flatnonzero(asked).tolist()
            unclear = padded([ids[index] for index in again])
            (probabilities[again],) = run_graph(
                self._reference(), REFERENCE, self._answers, unclear, B=len(again)
            )
        return Answered(probabilities, own, layers, asked)

    def predict(
        self, ids: Sequence[Sequence[int]], share: float, margin: float
    ) -> list[Prediction]:
        """The same as labels, with what they cost.

        Raises:
            PolicyError: see :meth:`classify`.
            ModelError: the folder's files fail.
        """
        share, margin = self.settings(share, margin)
        return self._predictions(self.answer(ids, share, margin), share)

    def predict_dense(self, ids: Sequence[Sequence[int]]) -> list[Prediction]:
        """Labels by the reference alone, one batch.

        Raises:
            ModelError: the folder's files fail.
        """
        feeds = padded(ids)
        (own,) = run_graph(self._reference(), REFERENCE, self._answers, feeds, B=len(ids))
        layers = feeds["attention_mask"] * len(self.about.weights)
        answered = Answered(own, own, layers, np.zeros(len(ids), bool))
        return [replace(each, dense=True) for each in self._predictions(answered, 1.0)]

    def _reference(self) -> Any:
        with self._lock:
            if self._reference_session is None:
                self._reference_session = self._open(REFERENCE, TEXTS, self._answers)
            return self._reference_session

    def _open(self, name: str, inputs: Sequence[str], outputs: Sequence[Output]) -> Any:
        data = read_checked(self.folder, self.about, name)
        try:
            session = open_session(data, name, self.threads)
            check_graph(session, name, inputs, outputs)
        except ModelError as error:
            raise ModelError(f"folder={str(self.folder)!r}: {error}") from error
        return session

    def settings(self, share: float | None, margin: float | None) -> tuple[float, float]:
        """Both as numbers, the defaults where they are None.

        Raises:
            PolicyError: see :meth:`classify`.
        """
        share = self.about.share if share is None else share
        margin = self.about.margin if margin is None else margin
        for name, value in (("share", share), ("margin", margin)):
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise PolicyError(f"{name}={value!r} must be a number from 0 to 1")
        low, high = self.about.shares
        if share < 1 and not low <= share <= high:
            raise PolicyError(
                f"share={share!r}: the gates of {self.about.title!r} were trained for shares from "
                f"{low:g} to {high:g}; choose one of these, or 1 to drop nothing"
            )
        return float(share), float(margin)

    def _check_lengths(self, ids: Sequence[Sequence[int]]) -> None:
        limit = self.about.max_length
        for index, own in enumerate(ids):
            if len(own) > limit:
                raise TextError(
                    f"texts[{index}] has {len(own)} tokens, and {self.about.model} takes at most "
                    f"{limit}; shorten it, or let texts be cut",
                    limit=limit,
                    length=len(own),
                )

    def _predictions(self, answered: Answered, share: float) -> list[Prediction]:
        needed, about = needed_tokens(answered.layers, len(self.about.weights)), self.about
        full = operations(about, np.repeat(needed[:, :1], needed.shape[1], 1), gates=False)
        flops = operations(about, needed, gates=share < 1) / full + answered.asked
        shares = needed.sum(1) / (needed[:, 0] * needed.shape[1])
        best = answered.probabilities.argmax(1)
        return [
            Prediction(
                label=about.labels[best[row]],
                probabilities=dict(zip(about.labels, probabilities, strict=True)),
                tokens=int(needed[row, 0]),
                token_share=float(shares[row]),
                flops_share=float(flops[row]),
                dense=bool(answered.asked[row]),
            )
            for row, probabilities in enumerate(answered.probabilities.tolist())
        ]


def open_engine(folder: str | os.PathLike[str], *, threads: int | None = None) -> Engine:
    """Opens a folder that ``saa export`` wrote. Reads and checks all of it but the reference model.

    Args:
        threads: that one run uses; by default what ONNX Runtime chooses, one for each core.

    Raises:
        ModelError: the folder is no exported one, a file in it is cut short, changed or from another
            folder, or ONNX Runtime cannot open it.
        PolicyError: ``threads`` is no whole number >= 1.
        SAAError: ONNX Runtime is not installed.
    """
    if threads is not None and not (isinstance(threads, int) and threads >= 1):
        raise PolicyError(f"threads={threads!r} must be a whole number >= 1, or None")
    return Engine(Path(folder), threads)


def needed_tokens(layers_BN: Array, layers: int) -> Array:
    """Tokens that each layer computed, int64 [B, L]."""
    found: Array = (layers_BN[:, None] > np.arange(layers)[:, None]).sum(2)
    return found


def operations(about: Manifest, needed_BL: Array, *, gates: bool) -> Array:
    """Floating-point operations of all layers, int64 [B]; as :mod:`saa_core.run.flops` counts them."""
    tokens = needed_BL.astype(np.int64)
    total = 2 * tokens * np.array(about.weights) + 4 * about.hidden * tokens * tokens
    if gates:
        before = np.concatenate([tokens[:, :1], tokens[:, :-1]], 1)
        total = total + before * np.array(about.gates)
    found: Array = total.sum(1)
    return found


def padded(ids: Sequence[Sequence[int]]) -> dict[str, Array]:
    """Texts in a padded table, and where it is real, int64 [B, N] each."""
    width = max(map(len, ids))
    tokens, real = np.zeros((2, len(ids), width), np.int64)
    for row, own in enumerate(ids):
        tokens[row, : len(own)], real[row, : len(own)] = own, 1
    return dict(zip(TEXTS, (tokens, real), strict=True))


def _tokenizer(data: bytes, longest: int | None) -> Any:
    """A tokenizer that pads nothing, and cuts texts to ``longest`` if that is given.

    Raises:
        ModelError: the file is none.
        SAAError: tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise SAAError(MISSING) from error
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # its exceptions have no other base
        raise ModelError(f"{TOKENIZER} is no tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if longest is not None:
        tokenizer.enable_truncation(longest)
    return tokenizer
