"""Which blocks of pairs mattered: one is left out at a time, and the text is run again.

Leave-one-out on one layer: everything else stays as the run's policy says, so what is measured is the
effect of these pairs, given all others. It is not additive: two blocks that stand in for each other
have little effect alone.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from saa_core.errors import PolicyError, TraceError
from saa_core.model import Model
from saa_core.run.text import run
from saa_core.trace.compare import compare
from saa_core.trace.trace import Trace
from saa_core.types import Force

BLOCKS = 48
"""About so many blocks are left out by default, so that a short text takes seconds."""
Stretch = tuple[int, int]


@dataclass(frozen=True)
class Effect:
    """What one block did.

    Args:
        queries, keys: first and last position of the block.
        pairs: kept pairs that were left out, over the heads concerned.
        distance: how far the output moved: mean KL divergence of the next-token distributions in
            nats; largest change of a label's probability; one minus the cosine of the embeddings.
        changed: the next word behind the text, or the label, is another one; None for embeddings.
    """

    queries: Stretch
    keys: Stretch
    pairs: int
    distance: float
    changed: bool | None


def blocks(
    trace: Trace, layer: int, head: int | None = None, *, size: int | None = None
) -> list[tuple[Stretch, Stretch, int]]:
    """Blocks of a layer in which pairs are kept: first and last query, first and last key, kept pairs.

    Args:
        head: only pairs of this head; None is all heads.
        size: tokens on a side; a multiple of both sides of the blocks that were decided. None
            chooses it so that there are about ``BLOCKS``.

    Raises:
        TraceError: the trace is dense or a summary, or the layer or head does not exist.
        PolicyError: the size cuts decided blocks.
    """
    if trace.policy is None:
        raise TraceError("the trace is of a dense run, in which nothing was decided")
    step = math.lcm(*trace.block)
    if size is None:
        causal = int(trace.allowed_pairs[layer]) < trace.queries * trace.keys * 0.75
        sides = math.sqrt(BLOCKS * (2 if causal else 1))
        size = step * max(1, math.ceil(trace.keys / sides / step))
    if size < 1 or size % step:
        raise PolicyError(f"size={size!r} must be a multiple of {step} tokens, the decided blocks")
    heads = range(trace.shape[1]) if head is None else (head,)
    kept = np.sum([trace.keep_map(layer, one) for one in heads], 0)
    starts = np.arange(0, trace.keys, size)
    counts = np.add.reduceat(np.add.reduceat(kept, starts, 0), starts, 1)
    found = []
    for m, s in np.argwhere(counts > 0).tolist():
        rows, columns = ((at * size, min((at + 1) * size, trace.keys) - 1) for at in (m, s))
        found.append((rows, columns, int(counts[m, s])))
    return found


def effects(
    model: Model,
    trace: Trace,
    layer: int,
    head: int | None = None,
    *,
    size: int | None = None,
    known: Collection[tuple[Stretch, Stretch]] = (),
) -> Iterator[Effect]:
    """Leaves out one block after the other and yields what each did.

    A query's own position stays kept, so that no row is empty. A guard is taken out of the policy: it
    would bring back what is left out.

    Args:
        trace: a run of ``model``; what is left out is compared with it.
        head, size: see :func:`blocks`.
        known: (queries, keys) of blocks to pass over.

    Raises:
        TraceError: see :func:`blocks`, or the trace holds no text.
        PolicyError: the trace drops whole tokens, which excludes forcing.
    """
    if trace.text is None:
        raise TraceError("the trace holds no text to run again")
    found = blocks(trace, layer, head, size=size)
    assert trace.policy is not None
    if trace.policy.tokens is not None:
        raise PolicyError("tokens: blocks cannot be left out where whole tokens may be dropped")
    for queries, keys, pairs in found:
        if (queries, keys) in known:
            continue
        out = Force(keep=False, layer=layer, head=head, query=queries, key=keys)
        policy = replace(trace.policy, force=(*trace.policy.force, out), guard=None)
        again = run(model, trace.text, policy, record="summary")
        yield Effect(queries, keys, pairs, *_moved(trace, again))


def _moved(before: Trace, after: Trace) -> tuple[float, bool | None]:
    """(distance, changed) of two runs of one text."""
    if before.label_probs is not None and after.label_probs is not None:
        return float(np.abs(before.label_probs - after.label_probs).max()), (
            before.label != after.label
        )
    found = compare(before, after)
    if found.kl is None or found.top1_agreement is None:
        return 1.0 - found.embedding_cosine, None
    return float(found.kl.mean()), not bool(found.top1_agreement[-1])
