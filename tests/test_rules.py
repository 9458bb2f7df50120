"""Properties of rules that hold for every score, shape and padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import mask_of

from saa_core import rules
from saa_core.errors import PolicyError
from saa_core.types import LOCAL, SINK, Allowed, Policy, expand

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
    policy = Policy(sink=sink, local=local)
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
        assert ((codes == LOCAL) == (near & ~sinks & pairs)).all()
    assert not (forced > 0)[count == 0].any()


def test_mass_one_is_all_even_where_float_sums_would_not_be():
    allowed = Allowed(4096, 4096, True, torch.device("cpu"))
    count = allowed.count((32, 16))
    forced = rules.forced(allowed, Policy(), (32, 16), count)
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
        ({"kernel": "magic"}, "kernel"),
        ({"block": (32,)}, "block"),
        ({"block": (0, 16)}, "block"),
        ({"sink": -1}, "sink"),
        ({"local": 0}, "local"),
    ],
)
def test_policy_names_the_argument_that_is_wrong(change, name):
    with pytest.raises(PolicyError, match=f"^{name}="):
        Policy(**change)
