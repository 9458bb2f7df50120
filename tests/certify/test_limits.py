"""What a user can accept: limits, p-values that are valid, and choices that break the promise rarely enough."""

import math
import random
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import saa_core as saa
from saa_core.bounds import binomial_interval, binomial_tail
from saa_core.certify.certificate import certificate_from
from saa_core.certify.degradation import Degradation
from saa_core.types import Policy

LADDER = [Policy(mass=mass) for mass in (0.99, 0.97, 0.95, 0.9, 0.8)]


def test_exactly_one_limit_and_all_in_range():
    assert saa.RiskLimit(perplexity=0.01).quantity == "perplexity"
    assert saa.RiskLimit(label_change=0.02, margin=1.0).tested == 0.01
    for wrong in (
        {},
        {"perplexity": 0.01, "missed_mass": 0.05},
        {"label_change": 0.0},
        {"label_change": 1},
        {"missed_mass": True},
        {"perplexity": 0.01, "delta": 1.0},
        {"perplexity": 0.01, "margin": -0.1},
        {"perplexity": 0.01, "margin": math.nan},
    ):
        with pytest.raises(saa.PolicyError):
            saa.RiskLimit(**wrong)


@given(st.integers(1, 60), st.floats(0.001, 0.999), st.data())
def test_the_binomial_tail_is_the_sum_of_its_terms(total, rate, data):
    events = data.draw(st.integers(0, total))
    terms = (comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(events + 1))
    assert binomial_tail(events, total, rate) == pytest.approx(min(1.0, sum(terms)), abs=1e-9)


def test_the_binomial_interval_is_that_of_the_tables():
    assert binomial_interval(0, 30, 0.05) == pytest.approx((0.0, 0.1157), abs=1e-4)
    assert binomial_interval(5, 50, 0.05) == pytest.approx((0.0333, 0.2181), abs=1e-4)
    assert binomial_interval(50, 50, 0.05) == pytest.approx((0.9289, 1.0), abs=1e-4)


def test_a_p_value_at_the_limit_is_rarely_small():
    """Losses whose true mean is just the tested limit pass in a share of delta of the draws at most."""
    draw = np.random.default_rng(0)
    for sla, make in (
        (saa.RiskLimit(label_change=0.05), lambda m: draw.binomial(1, m, 200)),
        # rare and heavy, which is what fools averages: half of the mean lies in one text of twenty
        (saa.RiskLimit(perplexity=0.01), lambda m: m / 2 + 10 * m * (draw.random(200) < 0.05)),
        (saa.RiskLimit(missed_mass=0.05), lambda m: draw.beta(0.5, 0.5 * (1 - m) / m, 200)),
    ):
        losses = [make(sla.tested) for _ in range(400)]
        means = [sla.clipped(each).mean() for each in losses]
        assert np.mean(means) == pytest.approx(sla.tested, rel=0.05)
        passed = sum(sla.p_value(each) <= sla.delta for each in losses)
        assert passed <= 0.05 * 400 + 2 * math.sqrt(400 * 0.05 * 0.95), sla
        assert sla.p_value(np.zeros(2000)) < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_more_loss_is_never_more_certain(seed):
    draw = np.random.default_rng(seed)
    low = draw.random(80) * 0.02
    high = low + draw.random(80) * 0.02
    for sla in (saa.RiskLimit(perplexity=0.02), saa.RiskLimit(missed_mass=0.02)):
        assert sla.p_value(low) <= sla.p_value(high) + 1e-12


@pytest.mark.parametrize(
    "quantity", ["label_change", pytest.param("missed_mass", marks=pytest.mark.slow)]
)
def test_the_choice_breaks_its_limit_as_rarely_as_promised(quantity):
    """300 draws of calibration texts: the true mean loss of what is chosen is over the limit in a share
    of delta at most, although five settings are tested, some of them just over it."""
    limit, delta, texts, draws = 0.1, 0.1, 300, 300
    rates = (0.02, 0.06, 0.085, 0.101, 0.115)
    sla = saa.RiskLimit(**{quantity: limit}, delta=delta, margin=0.0)
    draw = np.random.default_rng(3)
    broken = sparser = 0
    for _ in range(draws):
        common = draw.random(texts)  # the same texts under every setting

        def measured(common=common):
            for policy, rate in zip(LADDER, rates, strict=True):
                hit = common < 2 * rate
                losses = np.where(hit, 0.5, 0.0) if quantity == "missed_mass" else common < rate
                yield Degradation(policy, tuple(map(float, losses)), (1 - rate,) * texts)

        promise = certificate_from(sla, measured())
        if promise.policy is not None:
            rate = rates[LADDER.index(promise.policy)]
            broken += rate > limit
            sparser += rate > rates[0]
    assert broken <= delta * draws + 2 * math.sqrt(draws * delta * (1 - delta))
    assert sparser > draws / 2, "it is no use if it never dares anything"


def test_settings_are_tested_in_order_until_the_first_failure():
    def ask():
        yield constant(0.0, 400)
        yield constant(0.5, 400)
        raise AssertionError("asked after a failure")

    found = certificate_from(saa.RiskLimit(label_change=0.05), ask())
    assert [setting.certified for setting in found.settings] == [True, False]


def constant(loss, texts, work=0.5, policy=LADDER[0]):
    return Degradation(policy, (loss,) * texts, (work,) * texts)


def test_staying_dense_says_why_and_how_many_texts_would_do():
    sla = saa.RiskLimit(perplexity=0.01)
    few = certificate_from(sla, [constant(0.002, 10)])
    assert few.policy is None
    assert few.reason == "few texts"
    assert certificate_from(sla, [constant(0.002, few.needed)]).policy == LADDER[0]
    assert certificate_from(sla, [constant(0.002, few.needed - 2)]).policy is None
    assert f"about {few.needed} texts" in str(few)
    over = certificate_from(sla, [constant(0.02, 500)])
    assert (over.reason, over.needed) == ("over the limit", None)
    assert "more texts would not help" in str(over)
    none = certificate_from(sla, [constant(0.0, 500, work=1.02)])
    assert none.reason == "no saving"


def test_a_margin_asks_for_more():
    losses = random.Random(0).choices((0.0, 1.0), (0.98, 0.02), k=600)
    found = [Degradation(LADDER[0], tuple(losses), (0.5,) * 600)]
    assert certificate_from(saa.RiskLimit(label_change=0.04, margin=0.0), found).policy is not None
    assert certificate_from(saa.RiskLimit(label_change=0.04, margin=1.0), found).policy is None


def test_gains_do_not_pay_for_losses_and_nonsense_counts_as_the_worst():
    sla = saa.RiskLimit(perplexity=0.01)
    assert sla.clipped([-0.5, 0.02, 7.0, math.nan, math.inf]).tolist() == pytest.approx(
        [0.0, 0.02, 0.1, 0.1, 0.1]
    )
    low, high = sla.interval([0.004] * 100)
    assert 0 <= low <= 0.004 <= high < 0.01


def test_the_chosen_one_works_least_among_those_that_passed():
    sla = saa.RiskLimit(missed_mass=0.05)
    found = [
        constant(0.001, 400, work, policy)
        for work, policy in zip((0.6, 0.4, 0.5), LADDER, strict=False)
    ]
    promise = certificate_from(sla, found)
    assert promise.policy == LADDER[1]
    assert promise.chosen.work == pytest.approx(0.4)
    assert [setting.certified for setting in promise.settings] == [True] * 3
