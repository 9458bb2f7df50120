"""Gate, rule and lists in two launches against PyTorch's, in the interpreter where there is no GPU."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saa_core.gates.pair import DISTANCE_BUCKETS
from saa_core.triton.lists import lists_of
from saa_core.types import Force
from tests.triton.scene import layer

SHAPES = {
    "whole-blocks": {"queries": 128},
    "ragged-end": {"queries": 101, "heads": 4, "key_heads": 2},
    "one-token": {"queries": 1},
    "shorter-than-a-block": {"queries": 7, "block": (16, 16)},
    "padded-left": {"queries": 70, "batch": 2, "mask": "left", "tail": 8, "heads": 1},
    "padded-right": {"queries": 70, "batch": 2, "mask": "right", "heads": 1},
    "nothing-near": {"queries": 70, "batch": 2, "mask": "left", "local": 1, "sink": 0, "heads": 1},
    "both-directions": {"queries": 100, "causal": False, "directed": True},
    "last-queries-of-a-cache": {"queries": 20, "keys": 150, "tail": 8},
    "blocks-of-a-gpu": {"queries": 200, "block": (128, 64), "size": 64, "rank": 64},
    "a-row-per-query-block": {"queries": 90, "block": (16, 32), "pooled": 64},
    "heads-of-80": {"queries": 64, "size": 80, "rank": 48},
    "everything": {"queries": 60, "mass": 1.0},
    "tail": {"queries": 90, "tail": 40},
    "forced": {
        "queries": 90,
        "force": (Force(key=3), Force(head=1, query=(40, 60), key=(8, 30), keep=False)),
    },
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_decides_what_gate_and_rule_decide(triton_device, shape):
    one = layer(triton_device, **shape)
    expected = one.by_pytorch()
    lists, found = one.by_triton()
    assert found is not None
    torch.testing.assert_close(found.score, expected.score, rtol=1e-4, atol=1e-6)
    assert ties(found.keep, expected) == 0
    keep = found.keep if one.policy.aim == 1 else expected.keep
    same = (found.keep == keep).all(-1)
    bars = found.threshold[same], expected.threshold[same]
    torch.testing.assert_close(*bars, rtol=1e-4, atol=1e-6)
    assert torch.equal(lists.keep(), found.keep)
    full = expected.count == expected.block[0] * expected.block[1]
    assert torch.equal(lists.full_count, (found.keep & full).sum(-1, dtype=torch.int32))


def ties(keep: torch.Tensor, expected) -> int:
    """Blocks that differ, although their score is not the bar's but for rounding."""
    differs = keep != expected.keep
    close = (expected.score - expected.threshold[..., None]).abs() <= 1e-5
    return int((differs & ~close).sum())


def test_lists_are_the_same_whether_the_map_is_stored_or_not(triton_device):
    one = layer(triton_device, 130, heads=2)
    (lists, _), (alone, nothing) = one.by_triton(), one.by_triton(stored=False)
    assert nothing is None
    assert torch.equal(lists.keep(), alone.keep())


def test_texts_behind_each_other_see_themselves_only(triton_device):
    place = torch.arange(90, device=triton_device)
    first = torch.where(place < 37, 0, 37).int()[None]
    last = torch.where(place < 37, 36, 89).int()[None]
    one = layer(triton_device, 90, causal=False, bounds=(first, last))
    expected, (_, found) = one.by_pytorch(), one.by_triton()
    assert ties(found.keep, expected) == 0
    assert not found.keep[0, :, 2, :2].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_differs_on_ties_only(triton_device, dtype):
    one = layer(triton_device, 100, heads=3, key_heads=3, dtype=dtype)
    expected, (_, found) = one.by_pytorch(), one.by_triton()
    assert ties(found.keep, expected) == 0
    torch.testing.assert_close(found.score, expected.score, rtol=1e-3, atol=1e-5)


def test_a_graph_serves_shorter_texts_than_it_was_captured_with(triton_device):
    """Lengths come from the device: what lies behind the text is never read."""
    short = layer(triton_device, 75, tail=8)
    room = 128
    q, k = (torch.full((1, x.shape[1], room, 32), torch.nan) for x in (short.q, short.k))
    q, k = q.to(triton_device), k.to(triton_device)
    q[:, :, :75], k[:, :, :75] = short.q, short.k
    live = torch.tensor([75, 75], dtype=torch.int32, device=triton_device)
    task = replace(short.task, queries=room, keys=room, live=live)
    _, found = replace(short, q=q, k=k, task=task).by_triton()
    _, expected = short.by_triton()
    M, S = expected.keep.shape[2:]
    assert torch.equal(found.keep[:, :, :M, :S], expected.keep)
    assert torch.equal(found.score[:, :, :M, :S], expected.score)
    assert not found.keep[:, :, M:].any()


def test_lists_of_a_decision_that_is_there_already(triton_device):
    decision = layer(triton_device, 101, batch=2, mask="right").by_pytorch()
    assert torch.equal(lists_of(decision).keep(), decision.keep)


def test_buckets_are_those_of_the_gate():
    """The kernel reads the logarithm off the bits of a number; every distance up to the last bucket."""
    away = torch.arange(0, 20_000) / 2
    expected = (2 * torch.log2(1 + away)).int().clamp(max=DISTANCE_BUCKETS - 1)
    bits = (1 + away).view(torch.int32)
    over = ((bits & 0x7FFFFF) >= 0x3504F4).int()
    assert torch.equal((2 * ((bits >> 23) - 127) + over).clamp(max=27), expected)


ROWS = st.lists(
    st.lists(
        st.floats(0, 1, width=32, allow_subnormal=False) | st.sampled_from([0.0, 0.25, 1e-30]),
        min_size=8,
        max_size=8,
    ),
    min_size=4,
    max_size=4,
)


@given(ROWS, st.floats(0, 1.25, width=32))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_bar_is_the_highest_that_lets_enough_through(triton_device, rows, share):
    from tests.triton.bars import bars

    free = torch.tensor(rows, dtype=torch.float32, device=triton_device)
    wanted = share * free.sum(1)
    found = torch.empty(4, device=triton_device)
    bars[(1,)](free, wanted, found, ROWS=4, WIDE=8)
    for row, want, bar in zip(free.cpu(), wanted.cpu(), found.cpu(), strict=True):
        if want <= 0:
            assert bar == torch.inf
            continue
        slack = 1e-5 * float(row.sum())
        assert float(row[row >= bar].sum()) >= min(want, row.sum()) - slack
        higher = row[row > bar]
        assert float(higher.sum()) < want + slack
        assert bar in row or bar == 0
