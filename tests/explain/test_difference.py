"""Tokens of two texts aligned, and two runs laid over each other, against a slow pair-by-pair oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import saa_core as saa
from saa_core.explain.difference import (
    BOTH,
    NEITHER,
    ONLY_FIRST,
    ONLY_SECOND,
    OUTSIDE,
    difference,
    difference_map,
)
from saa_core.trace.align import align

TEXT = "If the sea is calm, the ferry reaches the island by ten, and the passengers see the chapel."
EDITED = (
    "If the sea is rough, the small ferry reaches the island by ten, and passengers see the chapel."
)
POLICY = saa.Policy(mass=0.9, sink=1, local=2)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_an_alignment_keeps_the_order_and_accounts_for_every_token(first, second):
    found = align(first, second)
    assert list(found.first) == sorted(set(found.first))
    assert list(found.second) == sorted(set(found.second))
    for a, b, changed in zip(found.first, found.second, found.changed, strict=True):
        assert changed == any(start <= a < end for start, end in (e.first for e in found.edits))
        assert changed or first[a] == second[b]
    unmatched = [at for at in range(len(first)) if at not in found.first]
    assert all(
        any(a0 <= at < a1 for (a0, a1) in (e.first for e in found.edits)) for at in unmatched
    )
    assert found.same == (first == second)


def test_words_put_in_taken_out_and_replaced():
    first = ["the", "sea", "is", "calm", "and", "wide"]
    found = align(first, ["the", "big", "sea", "is", "rough", "and"])
    assert found.to_second(1) == 2
    assert found.to_second(3) == 4
    assert found.changed[found.first.index(3)]
    assert found.to_second(5) is None
    assert found.to_first(1) is None
    assert len(found.edits) == 3


def counted(first, second, alignment, layer, head):
    """Pair by pair, as slowly as can be: counts, and the pairs that only one keeps."""
    keep = [trace.keep_map(layer, head) for trace in (first, second)]
    allowed = [trace.allowed(layer) for trace in (first, second)]
    places = list(zip(alignment.first, alignment.second, strict=True))
    both, only = 0, {True: set(), False: set()}
    for qa, qb in places:
        for ka, kb in places:
            if not (allowed[0][qa, ka] and allowed[1][qb, kb]):
                continue
            a, b = keep[0][qa, ka], keep[1][qb, kb]
            both += a and b
            if a != b:
                only[bool(a)].add((qa, ka))
    return both, only


@pytest.fixture(scope="module", params=["policies", "dense", "blocks", "edit", "blocks-and-edit"])
def runs(request, smollm2, novel):
    """Two runs that differ in what the name says."""
    blocks = saa.Policy(mass=0.9, granularity="block", sink=1, local=2)
    longer = novel[:400]
    return {
        "policies": lambda: (saa.run(smollm2, TEXT, POLICY), saa.run(smollm2, TEXT, saa.Policy())),
        "dense": lambda: (saa.run(smollm2, TEXT), saa.run(smollm2, TEXT, POLICY)),
        "blocks": lambda: (saa.run(smollm2, longer, blocks), saa.run(smollm2, longer, POLICY)),
        "edit": lambda: (saa.run(smollm2, TEXT, POLICY), saa.run(smollm2, EDITED, POLICY)),
        "blocks-and-edit": lambda: (
            saa.run(smollm2, longer, blocks),
            saa.run(smollm2, longer[:200] + " One more thing." + longer[200:], blocks),
        ),
    }[request.param]()


def test_counts_maps_and_flips_are_those_of_single_pairs(runs):
    first, second = runs
    found = difference(first, second, limit=10**6)
    for layer, head in ((0, 0), (7, 4), (29, 8)):
        both, only = counted(first, second, found.alignment, layer, head)
        assert found.both[layer, head] == both
        assert found.only_first[layer, head] == len(only[True])
        assert found.only_second[layer, head] == len(only[False])
        codes = difference_map(first, second, found.alignment, layer, head)
        assert (codes == BOTH).sum() == both
        for code, kept_first in ((ONLY_FIRST, True), (ONLY_SECOND, False)):
            assert {tuple(place) for place in np.argwhere(codes == code)} == only[kept_first]
        assert (codes != OUTSIDE).sum() == found.pairs[layer]
        assert (codes == NEITHER).sum() == found.pairs[layer] - both - sum(map(len, only.values()))
        here = [flip for flip in found.flips if (flip.layer, flip.head) == (layer, head)]
        assert sum(flip.pairs for flip in here) == sum(map(len, only.values()))
        for flip in here:
            assert (flip.query, flip.key) in only[flip.kept_first]


def test_flips_are_ranked_by_how_far_the_margin_moved(runs):
    first, second = runs
    every = difference(first, second, limit=10**6)
    swings = [flip.swing for flip in every.flips]
    assert swings == sorted(swings, reverse=True)
    best = difference(first, second, limit=20).flips
    assert [flip.swing for flip in best] == swings[:20]
    for flip in best:
        for trace, place, margin in (
            (first, (flip.query, flip.key), flip.margin_first),
            (second, (flip.other_query, flip.other_key), flip.margin_second),
        ):
            kept = bool(trace.keep_map(flip.layer, flip.head)[place])
            assert kept == (flip.kept_first if trace is first else not flip.kept_first)
            if margin is not None and abs(margin) > 1e-4:  # scores are stored as float16
                assert (margin > 0) == kept


def test_the_same_run_twice_differs_in_nothing(smollm2):
    trace = saa.run(smollm2, TEXT, POLICY)
    found = difference(trace, trace)
    assert found.alignment.same
    assert found.share.max() == 0
    assert found.flips == ()


def test_models_of_other_shapes_are_refused(smollm2, minilm):
    with pytest.raises(saa.TraceError, match="layers and heads"):
        difference(saa.run(smollm2, TEXT, POLICY), saa.run(minilm, TEXT, POLICY))


def test_outputs_of_two_texts_are_compared_where_tokens_stand_for_each_other(smollm2):
    first, second = saa.run(smollm2, TEXT), saa.run(smollm2, EDITED)
    alignment = align(first.token_ids.tolist(), second.token_ids.tolist())
    found = saa.compare(first, second, alignment)
    assert found.kl.shape == found.top1_agreement.shape == (len(alignment.first),)
    edited = alignment.first.index(next(edit.first[0] for edit in alignment.edits))
    np.testing.assert_allclose(found.kl[:edited], 0, atol=1e-4)
    assert found.kl[edited] > 0.1, "the word that was changed predicts another next word"
    with pytest.raises(saa.TraceError, match="different tokens"):
        saa.compare(first, second)
