"""What would have changed a decision, checked by running the changed policy; parts add up."""

import dataclasses

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.explain.pair import LayerInputs, boundary

TEXT = "The ferry left the harbour late, because the fog had not lifted and nobody could see the buoys."


@pytest.fixture(scope="module", params=["pair", "block"])
def policy(request):
    return saa.Policy(mass=0.9, granularity=request.param, sink=1, local=2)


@pytest.fixture(scope="module")
def trace(smollm2, novel, policy):
    return saa.run(smollm2, TEXT if policy.granularity == "pair" else novel[:700], policy)


@pytest.mark.parametrize("layer", [0, 3, 17])
def test_the_decision_turns_at_the_boundary(smollm2, trace, policy, layer):
    """Layer 0 sees the same queries and keys under every policy, so there it must be exact."""
    reasons = trace.reason_map(layer, 2)
    for reason in ("gate", "below"):
        places = np.argwhere(reasons == saa.REASONS.index(reason))
        for query, key in places[:: max(1, len(places) // 3)][:3]:
            found = boundary(trace, layer, 2, query, key)
            assert found.kept == (reason == "gate")
            close = found.margin is not None and abs(found.margin) < 1e-3  # stored as float16
            assert close or found.margin is None or (found.margin > 0) == found.kept
            assert close or (found.value < policy.mass) == found.kept
            if layer:
                continue
            for mass, expected in ((found.value + 2e-3, True), (found.value - 2e-3, False)):
                if 0 < mass < 1:
                    again = saa.run(smollm2, trace.text, dataclasses.replace(policy, mass=mass))
                    assert again.keep_map(0, 2)[query, key] == expected


def test_forced_pairs_have_no_boundary(trace):
    assert boundary(trace, 4, 1, 9, 0).value is None
    assert boundary(trace, 4, 1, 9, 0).kept
    assert boundary(trace, 4, 1, 3, 20).value is None
    assert not boundary(trace, 4, 1, 3, 20).kept
    with pytest.raises(saa.TraceError, match="do not exist"):
        boundary(trace, 4, 1, 3, 10_000)


def test_parts_make_the_score(smollm2, trace):
    """Softmax over a row of logits, averaged over the pooled rows of the block, is the score."""
    inputs = LayerInputs(smollm2, trace, 6)
    bq, bk = trace.block
    first = 64 if bq > 1 else 14
    rows = range(first, first + bq, 16)
    shares = []
    for query in rows:
        logits = [inputs.parts(4, query, key).logit for key in range(0, first + bq, bk)]
        shares.append(torch.tensor(logits).softmax(0))
    expected = torch.stack(shares).mean(0)
    found = trace.decision(6, 4).score[first // bq, : len(expected)]
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("over", ["layer", pytest.param("call", marks=pytest.mark.long)])
def test_a_budget_turns_where_it_says(smollm2, novel, over):
    policy = saa.Policy(budget=0.4, budget_over=over, granularity="block")
    trace = saa.run(smollm2, novel[:1500], policy)
    reasons = trace.reason_map(0, 2)
    for reason in ("gate", "below"):
        places = np.argwhere(reasons == saa.REASONS.index(reason))
        query, key = places[len(places) // 2]
        found = boundary(trace, 0, 2, query, key)
        assert found.kept == (reason == "gate")
        assert (found.value <= 0.4) == found.kept
        for budget, expected in ((found.value * 1.02, True), (found.value * 0.98, False)):
            again = saa.run(smollm2, trace.text, dataclasses.replace(policy, budget=budget))
            assert again.keep_map(0, 2)[query, key] == expected


def test_the_true_weights_of_a_row_sum_to_one(smollm2, trace):
    inputs = LayerInputs(smollm2, trace, 6)
    query = 14
    found = [inputs.parts(4, query, key) for key in range(query + 1)]
    assert sum(parts.weight for parts in found) == pytest.approx(1, abs=1e-4)
    assert found[2].block_weight >= found[2].weight
    with pytest.raises(saa.TraceError):
        inputs.parts(99, 0, 0)
    with pytest.raises(saa.TraceError, match="layer=30"):
        LayerInputs(smollm2, trace, 30)


def test_the_mass_of_one_head_is_what_a_full_record_says(smollm2, trace):
    inputs = LayerInputs(smollm2, trace, 6)
    for head in (0, 4):
        assert inputs.retained_mass(trace, head) == pytest.approx(
            trace.retained_mass[6, head], abs=1e-5
        )
