"""What came out of two runs, position by position."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saa_core.errors import TraceError
from saa_core.trace.align import Alignment
from saa_core.trace.maps import Array
from saa_core.trace.trace import Trace


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same text, position by position; or on two texts, at the tokens that stand for
    each other (P of them, below N).

    Args:
        kl: divergence of the second run's next-token distribution from the first's, nats, [N];
            None for an encoder.
        top1_agreement: the most likely next token is the same, bool [N]; None for an encoder.
        output_error: relative L2 distance of the final hidden states, [N].
        embedding_cosine: cosine of the two text embeddings (mean of the final hidden states).
    """

    kl: Array | None
    top1_agreement: Array | None
    output_error: Array
    embedding_cosine: float


def compare(
    first: Trace,
    second: Trace,
    alignment: Alignment | None = None,
    *,
    next_tokens: tuple[Array, Array] | None = None,
) -> Comparison:
    """Compares what came out of two runs on the same tokens.

    Args:
        alignment: of two texts that differ; only tokens that stand for each other are compared.
        next_tokens: ``kl`` and ``top1_agreement`` where they are known already; neither head runs then.

    Raises:
        TraceError: the tokens differ and are not aligned, a trace holds no final states, or neither of
            two traces of a language model has its head (run one of them in this process).
    """
    if alignment is None and not np.array_equal(first.token_ids, second.token_ids):
        raise TraceError(
            f"the two traces are of different tokens ({first.keys} and {second.keys} of them)"
        )
    if first.hidden is None or second.hidden is None:
        raise TraceError("both traces need final hidden states; record them with saa_core.run")
    if first.hidden.shape[1] != second.hidden.shape[1]:
        raise TraceError(
            f"the two traces have states of {first.hidden.shape[1]} and {second.hidden.shape[1]} "
            "values; only models of one size can be compared"
        )
    states = first.hidden, second.hidden
    if alignment is not None:
        states = first.hidden[list(alignment.first)], second.hidden[list(alignment.second)]
    kl, same = (None, None) if next_tokens is None else next_tokens
    if next_tokens is None and (first.top_ids is not None or first.lm_head is not None):
        heads = first.lm_head or second.lm_head, second.lm_head or first.lm_head
        kl, same = _next_tokens(heads, states)
    distance = np.linalg.norm(states[0] - states[1], axis=-1)
    size = np.linalg.norm(states[0], axis=-1)
    a, b = (trace.hidden.astype(np.float64).mean(0) for trace in (first, second))  # type: ignore[union-attr]
    return Comparison(
        kl=kl,
        top1_agreement=same,
        output_error=distance / np.maximum(size, 1e-12),
        embedding_cosine=float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)),
    )


def _next_tokens(
    heads: tuple[Callable[[Array], Array] | None, ...], states: tuple[Array, Array]
) -> tuple[Array, Array]:
    """(kl, top1_agreement) of the states of two language models, each through its own head."""
    if heads[0] is None or heads[1] is None:
        raise TraceError("one of the traces needs the model's head; run it in this process")
    kl = np.empty(len(states[0]), np.float32)
    same = np.empty(len(states[0]), bool)
    for start in range(0, len(kl), 128):
        part = slice(start, start + 128)
        a = _log_softmax(heads[0](states[0][part]))
        b = _log_softmax(heads[1](states[1][part]))
        kl[part] = (np.exp(a) * (a - b)).sum(-1)
        same[part] = a.argmax(-1) == b.argmax(-1)
    return np.maximum(kl, 0), same


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
