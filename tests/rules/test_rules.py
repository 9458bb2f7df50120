"""Properties of rules that hold for every score, shape and padding."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saa_core import rules
from saa_core.attention import Call
from saa_core.errors import PolicyError
from saa_core.pairs import Allowed, Decision, expand
from saa_core.types import EXCLUDED, FORCED, LOCAL, SINK, TAIL, Force, Policy
from tests.problems import mask_of

SCENES = st.fixed_dictionaries(
    {
        "length": st.integers(1, 150),
        "block": st.sampled_from([(1, 1), (32, 16), (16, 16), (8, 4), (64, 32)]),
        "mask": st.sampled_from([None, "left", "right", "gap"]),
        "causal": st.booleans(),
        "sink": st.integers(0, 6),
        "local": st.integers(1, 40),
        "seed": st.integers(0, 10_000),
    }
)


def scene(length, block, mask, causal, sink, local, seed):
    torch.manual_seed(seed)
    allowed = Allowed(
        length, length, causal, torch.device("cpu"), mask_of(mask, 2, length, length, causal)
    )
    count = allowed.count(block)
    policy = Policy(sink=sink, local=local, tail=0)
    forced = rules.forced(allowed, policy, block, count)
    score = torch.rand(2, 3, *count.shape[2:]) ** 4 * (count > 0)
    return allowed, count, policy, forced, score / score.sum(-1, keepdim=True).clamp(min=1e-9)


@given(SCENES, st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_mass_keeps_forced_never_a_disallowed_pair_and_no_empty_row(shape, target):
    allowed, count, _, forced, score = scene(**shape)
    keep, threshold = rules.mass(score, forced, count, target)
    assert keep[(forced > 0).expand_as(keep)].all()
    assert not keep[(count == 0).expand_as(keep)].any()
    rows = (count > 0).any(-1).expand_as(keep[..., 0])
    assert keep.any(-1)[rows].all()
    pairs = expand(keep, shape["block"], allowed.queries, allowed.keys) & allowed.pairs
    seen = allowed.pairs.any(-1).expand_as(pairs[..., 0])
    assert pairs.any(-1)[seen].all()
    free = keep & (forced == 0)
    assert (score >= threshold[..., None])[free].all()


@given(SCENES, st.floats(0.01, 0.999))
@settings(max_examples=60, deadline=None)
def test_mass_holds_what_was_asked_for_and_not_one_block_more(shape, target):
    _, count, _, forced, score = scene(**shape)
    keep, threshold = rules.mass(score, forced, count, target)
    held = (score * keep).sum(-1)
    wanted = target * score.sum(-1)
    assert (held >= wanted - 1e-5).all()
    # Without its lowest free blocks a row would miss the target: nothing is kept needlessly.
    lowest = keep & (forced == 0) & (score <= threshold[..., None])
    assert ((held - (score * lowest).sum(-1) < wanted + 1e-5) | ~lowest.any(-1)).all()


@given(SCENES, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_more_mass_keeps_a_superset(shape, one, other):
    _, count, _, forced, score = scene(**shape)
    less, more = sorted((one, other))
    fewer, _ = rules.mass(score, forced, count, less)
    larger, _ = rules.mass(score, forced, count, more)
    assert not (fewer & ~larger).any()


@given(SCENES)
@settings(max_examples=60, deadline=None)
def test_forced_blocks_are_those_with_a_sink_or_local_pair(shape):
    allowed, count, policy, forced, _ = scene(**shape)
    pairs = allowed.pairs
    q = torch.arange(allowed.queries)[:, None]
    k = torch.arange(allowed.keys)[None]
    near = (q - k).abs() < policy.local
    first = torch.where(pairs.any(2).any(-1), pairs.any(2).int().argmax(-1), 0)[..., None, None]
    sinks = (k >= first) & (k < first + policy.sink)
    codes = expand(forced, shape["block"], allowed.queries, allowed.keys)
    assert ((codes == SINK) >= (sinks & pairs)).all()
    assert ((codes > 0) >= (near & pairs)).all()
    if shape["block"] == (1, 1):
        assert ((codes == SINK) == (sinks & pairs)).all()
        away = torch.where(pairs, (q - k).abs(), allowed.keys)
        nearest = away == away.amin(-1, keepdim=True)
        assert ((codes == LOCAL) >= (near & ~sinks & pairs)).all()
        assert ((codes == LOCAL) <= ((near | nearest) & ~sinks & pairs)).all()
    assert not (forced > 0)[count == 0].any()


@given(SCENES, st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_the_last_queries_see_every_key(shape, tail):
    """And of the others none more than before, but those in a block with one of them."""
    allowed, count, policy, before, score = scene(**shape)
    codes = rules.forced(allowed, replace(policy, tail=tail), shape["block"], count)
    assert ((codes == before) | ((codes == TAIL) & (before == 0))).all()
    keep, _ = rules.mass(score, codes, count, 0.3)
    pairs = expand(keep, shape["block"], allowed.queries, allowed.keys) & allowed.pairs
    rows = expand((codes == TAIL).any(-1, keepdim=True), shape["block"], allowed.queries, 1)[..., 0]
    for item, seen in enumerate(allowed.pairs.any(-1)[:, 0]):
        if seen.any():
            last = int(seen.nonzero().max())
            ends = torch.arange(allowed.queries).gt(last - tail) & seen
            full = allowed.pairs[item, :, ends].expand_as(pairs[item][:, ends])
            assert torch.equal(pairs[item][:, ends], full)
            first = max(0, last - tail + 1) // shape["block"][0] * shape["block"][0]
            assert not rows[min(item, len(rows) - 1), 0, :first].any()


def test_mass_one_is_all_even_where_float_sums_would_not_be():
    allowed = Allowed(4096, 4096, True, torch.device("cpu"))
    count = allowed.count((32, 16))
    forced = rules.forced(allowed, Policy(tail=0), (32, 16), count)
    score = torch.rand(1, 1, *count.shape[2:]) ** 20 * (count > 0)
    score = score / score.sum(-1, keepdim=True)
    keep, _ = rules.mass(score, forced, count, 1.0)
    assert torch.equal(keep, count > 0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"mass": 0.0}, "mass"),
        ({"mass": 1.2}, "mass"),
        ({"mass": "high"}, "mass"),
        ({"granularity": "word"}, "granularity"),
        ({"block": (32,)}, "block"),
        ({"block": (0, 16)}, "block"),
        ({"sink": -1}, "sink"),
        ({"tail": 1.5}, "tail"),
        ({"local": 0}, "local"),
    ],
)
def test_policy_names_the_argument_that_is_wrong(change, name):
    with pytest.raises(PolicyError, match=f"^{name}="):
        Policy(**change)


@pytest.mark.parametrize("block", [(8, 4), (1, 1), (32, 16)])
def test_a_query_whose_own_key_is_masked_out_keeps_the_nearest_that_it_sees(block):
    mask = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    mask[..., 20:38] = False
    allowed = Allowed(40, 40, True, torch.device("cpu"), mask)
    count = allowed.count(block)
    policy = Policy(mass=0.01, sink=0, local=1, tail=0)
    forced = rules.forced(allowed, policy, block, count)
    score = torch.zeros_like(count).float()
    score[..., 0] = 1.0  # the gate wants the first block only
    keep, threshold = rules.mass(score, forced, count, policy.mass)
    kept = Decision(block, keep, score, threshold, forced, count).pair_keep(allowed)
    assert kept[0, 0].any(-1).all()
    for query in range(20, 38):
        assert kept[0, 0, query, 19], "the last key before the gap is the nearest"


@given(SCENES, st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_budget_is_never_passed_unless_the_forced_blocks_alone_do(shape, target):
    _, count, _, forced, score = scene(**shape)
    keep, threshold = rules.budget(score, forced, count, target)
    is_forced = (forced > 0).expand_as(keep)
    assert keep[is_forced].all()
    assert not keep[(count == 0).expand_as(keep)].any()
    spent = (keep * count).sum((1, 2, 3))
    paid = (is_forced * count).sum((1, 2, 3))
    limit = target * count.expand_as(keep).sum((1, 2, 3))
    assert ((spent <= limit) | (spent == paid)).all()
    free = keep & ~is_forced
    assert (score >= threshold[..., None])[free].all()
    # Not one block more fits: the best that is left out would pass the limit.
    left_out = score.masked_fill(keep | (count == 0), -1).flatten(1)
    best = left_out.max(1)
    for item in range(len(score)):
        if best.values[item] > 0 and spent[item] >= paid[item] and limit[item] > paid[item]:
            allowed_here = count.expand_as(keep)[item]
            equal = (score[item] == best.values[item]) & ~keep[item] & (allowed_here > 0)
            cost = (allowed_here * equal).sum()
            assert spent[item] + cost > limit[item] - 1


@given(SCENES, st.floats(0.05, 0.5), st.floats(0.0, 0.5))
@settings(max_examples=40, deadline=None)
def test_a_larger_budget_keeps_all_that_a_smaller_one_keeps(shape, target, more):
    _, count, _, forced, score = scene(**shape)
    small, _ = rules.budget(score, forced, count, target)
    large, _ = rules.budget(score, forced, count, min(target + more, 1.0))
    assert (small <= large).all()


ENTRIES = st.builds(
    Force,
    keep=st.booleans(),
    head=st.none() | st.integers(0, 2),
    query=st.none() | st.integers(0, 0),
    key=st.none() | st.integers(0, 0),
)


@given(SCENES, st.lists(ENTRIES, min_size=1, max_size=3), st.sampled_from(["mass", "budget"]))
@settings(max_examples=80, deadline=None)
def test_what_a_person_forces_is_kept_or_excluded_by_every_rule(shape, entries, rule):
    allowed, count, _, codes, score = scene(**shape)
    block = shape["block"]
    forced = rules.apply_overrides(codes, count, allowed, entries, block, heads=3)
    keep, _ = rules.RULES[rule](score, forced, count, 0.5)
    forced = forced.expand_as(keep)
    possible = (count > 0).expand_as(keep)
    assert keep[forced == FORCED].all()
    assert not keep[forced == EXCLUDED].any()
    assert not keep[~possible].any()
    last = entries[-1]
    if last.keep and last.query is None and last.key is None:
        heads = slice(None) if last.head is None else slice(last.head, last.head + 1)
        assert keep[:, heads][possible[:, heads]].all()
    pairs = expand(keep, block, allowed.queries, allowed.keys) & allowed.pairs
    own = torch.eye(allowed.queries, dtype=torch.bool) & allowed.pairs
    assert pairs[own.expand_as(pairs)].all(), "a query always sees itself"


@pytest.mark.parametrize("rule", ["mass", "budget"])
def test_excluded_blocks_do_not_count_as_mass_that_is_held(rule):
    allowed = Allowed(64, 64, True, torch.device("cpu"))
    count = allowed.count((1, 1))
    policy = Policy(sink=0, local=1, tail=0)
    codes = rules.forced(allowed, policy, (1, 1), count)
    score = torch.rand(1, 1, 64, 64) * (count > 0)
    score[..., 0] = 100 * (count[..., 0] > 0)
    score = score / score.sum(-1, keepdim=True)
    entries = [Force(key=0, keep=False)]
    forced = rules.apply_overrides(codes, count, allowed, entries, (1, 1), heads=1)
    keep, _ = rules.RULES[rule](score, forced, count, 0.5)
    assert not keep[0, 0, 1:, 0].any()
    assert keep[0, 0, 40:].sum(-1).min() > 5, "the others take the place of what is excluded"


def test_forcing_what_does_not_exist_is_refused():
    allowed = Allowed(8, 8, True, torch.device("cpu"))
    count = allowed.count((1, 1))
    codes = rules.forced(allowed, Policy(tail=0), (1, 1), count)
    for entry, word in [
        (Force(head=3), r"head=3.*0 to 2"),
        (Force(query=8), r"query=8.*0 to 7"),
        (Force(key=99), "key=99"),
    ]:
        with pytest.raises(PolicyError, match=word):
            rules.apply_overrides(codes, count, allowed, [entry], (1, 1), heads=3)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"mass": 0.9, "budget": 0.4}, "exclude each other"),
        ({"budget": 0}, "budget=0 must be a number in"),
        ({"budget": 0.4, "budget_over": "head"}, "budget_over='head'"),
        ({"force": ("everything",)}, "sequence of saa_core.Force"),
        ({"force": ({"token": 3},)}, "force="),
    ],
)
def test_a_policy_says_what_is_wrong_with_it(given, word):
    with pytest.raises(PolicyError, match=word):
        Policy(**given)
    with pytest.raises(PolicyError, match="head=-1"):
        Force(head=-1)


@pytest.mark.parametrize(
    ("given", "word"), [({"kernel": "magic"}, r"kernel='magic'.*native"), ({"rule": "top"}, "mass")]
)
def test_a_call_knows_the_kernels_and_rules(given, word):
    with pytest.raises(PolicyError, match=word):
        Call(Policy(**given))
