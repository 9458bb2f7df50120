"""Blocks left out one by one: what is left out, what it does, and who may ask."""

import numpy as np
import pytest

import saa_core as saa
from saa_core.explain.effects import blocks, effects

TEXT = (
    "The captain of the ferry decides at eight, and the harbour master writes it on the board. The"
)


@pytest.fixture(scope="module")
def trace(smollm2):
    return saa.run(smollm2, TEXT, saa.Policy(mass=0.9, sink=1, local=2))


def test_blocks_hold_every_kept_pair_once(trace):
    for head in (None, 3):
        heads = range(trace.shape[1]) if head is None else (head,)
        kept = sum(int(trace.keep_map(4, one).sum()) for one in heads)
        found = blocks(trace, 4, head, size=5)
        assert sum(pairs for _, _, pairs in found) == kept
        assert all(keys[0] <= queries[1] for queries, keys, _ in found)
    assert 20 <= len(blocks(trace, 4)) <= 60


def test_what_is_left_out_is_dropped_there_and_nowhere_else(smollm2, trace):
    first = next(effects(smollm2, trace, 4, 3, size=8))
    again = saa.run(
        smollm2,
        TEXT,
        saa.Policy(
            mass=0.9,
            sink=1,
            local=2,
            force=(saa.Force(False, 4, 3, first.queries, first.keys),),
        ),
    )
    rows, columns = (np.s_[a : b + 1] for a, b in (first.queries, first.keys))
    part = again.keep_map(4, 3)[rows, columns]
    own = np.equal.outer(np.arange(trace.keys), np.arange(trace.keys))[rows, columns]
    assert not (part & ~own).any(), "only a query's own position stays"
    assert first.pairs == trace.keep_map(4, 3)[rows, columns].sum()
    assert (again.keep_map(4, 2) == trace.keep_map(4, 2)).all()
    compared = saa.compare(trace, again)
    assert first.distance == pytest.approx(float(compared.kl.mean()), abs=1e-6)
    assert first.changed == (not compared.top1_agreement[-1])


def test_the_first_tokens_matter_most_and_known_blocks_are_passed_over(smollm2, trace):
    """Attention sinks: without the first keys a model of this kind falls apart."""
    found = list(effects(smollm2, trace, 4, size=8))
    assert max(found, key=lambda effect: effect.distance).keys[0] == 0
    known = [(effect.queries, effect.keys) for effect in found[1:]]
    assert list(effects(smollm2, trace, 4, size=8, known=known)) == [found[0]]


def test_an_encoder_moves_its_embedding(minilm):
    found = next(effects(minilm, saa.run(minilm, TEXT, saa.Policy(mass=0.9)), 2, size=8))
    assert found.changed is None
    assert found.distance > 1e-6


def test_what_cannot_be_asked(smollm2, trace, minilm):
    with pytest.raises(saa.TraceError, match="dense"):
        next(effects(smollm2, saa.run(smollm2, TEXT), 4))
    with pytest.raises(saa.TraceError, match="layer"):
        next(effects(smollm2, trace, 99, size=8))
    blocky = saa.run(smollm2, TEXT, saa.Policy(granularity="block"))
    with pytest.raises(saa.PolicyError, match="multiple of 32"):
        next(effects(smollm2, blocky, 4, size=8))


@pytest.mark.parametrize("stretch", [(3, 1), (0,), (-1, 2), (0, True)])
def test_a_stretch_that_is_none_is_refused(stretch):
    with pytest.raises(saa.PolicyError, match="stretch"):
        saa.Force(key=stretch)


def test_a_forced_stretch_is_stored_and_read(trace, smollm2, tmp_path):
    policy = saa.Policy(mass=0.9, force=(saa.Force(key=(2, 5)), saa.Force(query=7, layer=1)))
    run = saa.run(smollm2, TEXT, policy)
    assert run.keep_map(3, 1)[10:, 2:6].all()
    assert saa.Trace.load(run.save(tmp_path / "run.saa")).policy.force == policy.force
