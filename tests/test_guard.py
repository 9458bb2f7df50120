"""The guard: its bound, what it corrects, and what it leaves alone."""

import math
import random

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.bounds import BETS, least_samples, upper_bound
from saa_core.explain.damage import KINDS, damage_gates
from saa_core.guard import Inspection, in_full
from saa_core.pairs import Allowed, Decision


def samples(kind: str, count: int, draw: random.Random) -> tuple[list[float], float]:
    """Missed masses, each from its own distribution, and the mean of their means."""
    if kind == "rare":  # 2 of 100 queries miss everything
        return [float(draw.random() < 0.02) for _ in range(count)], 0.02
    if kind == "layers":  # the first layers miss much, the others nothing
        means = [0.2 if index < count // 4 else 0.0 for index in range(count)]
    else:
        means = [0.03] * count
    return [m and draw.betavariate(20 * m, 20 * (1 - m)) for m in means], sum(means) / count


@pytest.mark.parametrize("kind", ["rare", "layers", "even"])
def test_the_bound_is_wrong_no_oftener_than_it_says(kind):
    draw, delta, trials = random.Random(kind), 0.1, 600
    drawn = [samples(kind, 240, draw) for _ in range(trials)]
    bounds = upper_bound(torch.tensor([values for values, _ in drawn]), delta)
    wrong = sum(float(bound) < mean for bound, (_, mean) in zip(bounds, drawn, strict=True))
    assert wrong / trials < delta + 3 * (delta * (1 - delta) / trials) ** 0.5


def test_the_bound_is_tight_where_little_is_missed():
    draw = random.Random(0)
    values, mean = samples("even", 240, draw)
    bound = float(upper_bound(torch.tensor(values), 0.05))
    hoeffding = mean + (math.log(20) / 2 / 240) ** 0.5
    assert mean < bound < mean + 0.02 < hoeffding - 0.05
    nothing = float(upper_bound(torch.zeros(240), 0.05))
    best = max(BETS)  # two bets share the capital
    assert nothing < (math.log(2 * 20) / 240) / best
    assert float(upper_bound(torch.ones(240), 0.05)) > 0.99
    more = torch.tensor(values).clone()
    more[0] += 0.1
    assert float(upper_bound(more, 0.05)) > bound


@pytest.mark.parametrize("how", KINDS)
def test_a_damaged_gate_never_answers_badly_in_silence(how, smollm2, novel):
    model = damage_gates(smollm2, how)
    text = novel[:900]
    guard = saa.Guard(missed_mass=0.05)
    trace = saa.run(model, text, saa.Policy(mass=0.97, guard=guard))
    assert 1 - trace.retained_mass.mean() <= 0.05
    result = trace.events[-1]
    assert result["suspected"] == "result"
    assert 1 - trace.retained_mass.mean() <= result["bound"] <= 0.05
    blind = saa.run(model, text, saa.Policy(mass=0.97))
    if 1 - blind.retained_mass.mean() > 0.05:
        assert len(trace.events) > 1
        assert {event["suspected"] for event in trace.events[:-1]} <= {
            "missed",
            "scores",
            "reserve",
        }
    if how == "nan":
        assert [event["layer"] for event in trace.events[:-1]] == list(range(len(model.gates)))
        assert {event["suspected"] for event in trace.events[:-1]} == {"scores"}
        assert trace.density.min() == 1


def test_a_good_gate_is_left_alone(smollm2, novel):
    text = novel[:900]
    guarded = saa.run(smollm2, text, saa.Policy(mass=0.97, guard=saa.Guard()))
    plain = saa.run(smollm2, text, saa.Policy(mass=0.97))
    assert len(guarded.events) == 1
    assert (guarded.hidden == plain.hidden).all()
    assert guarded.events[0]["full_layers"] == 0
    assert abs(guarded.events[0]["estimate"] - (1 - plain.retained_mass.mean())) < 0.01
    assert plain.events == ()


def test_the_trace_says_which_pairs_the_guard_added(smollm2, novel, tmp_path):
    model = damage_gates(smollm2, "negated", layers=[3])
    trace = saa.run(model, novel[:900], saa.Policy(mass=0.97, guard=saa.Guard()))
    event = trace.events[0]
    assert (event["layer"], event["suspected"]) == (3, "missed")
    assert event["measured"] > 0.1 > event["after"]
    again = saa.Trace.load(trace.save(tmp_path / "guarded.saa"))
    assert list(again.events) == list(trace.events)
    assert again.policy.guard == saa.Guard()
    probe, dense = saa.REASONS.index("probe"), saa.REASONS.index("dense")
    for head in event["heads"]:
        codes = again.reason_map(3, head)
        added = (codes == probe) | (codes == dense)
        assert added.any()
        assert again.keep_map(3, head)[added].all()
    assert not (again.reason_map(5, 0) == probe).any()


def test_a_policy_over_the_limit_is_brought_under_it(smollm2, novel):
    """What the gate plans to miss is itself too much: layers are computed in full until it fits."""
    policy = saa.Policy(mass=0.88, guard=saa.Guard(missed_mass=0.05))
    trace = saa.run(smollm2, novel[:900], policy)
    assert "reserve" in {event["suspected"] for event in trace.events}
    assert trace.events[-1]["bound"] <= 0.05
    assert 1 - trace.retained_mass.mean() <= 0.05
    blind = saa.run(smollm2, novel[:900], saa.Policy(mass=0.88))
    assert 1 - blind.retained_mass.mean() > 0.05


def test_each_text_of_a_padded_batch_has_its_own_account(minilm, novel):
    texts = [novel[:700], novel[1000:1200]]
    batch = minilm.tokenizer(texts, return_tensors="pt", padding=True)
    policy = saa.Policy(mass=0.9, guard=saa.Guard(missed_mass=0.1), granularity="pair")
    timed, full = saa.Call(policy), saa.Call(policy, record="full")
    with torch.inference_mode():
        fast = minilm.hf(**batch, saa=timed).last_hidden_state
        slow = minilm.hf(**batch, saa=full).last_hidden_state
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)
    for item in range(2):
        checked = full.checked(item)
        assert checked.met
        assert checked == timed.checked(item)
        true = 1 - full.trace(item).retained_mass.mean()
        assert true <= checked.bound
        assert abs(true - checked.estimate) < 0.02
    assert full.checked(0) != full.checked(1)


def test_when_nothing_helps_the_text_is_computed_densely(smollm2, novel, monkeypatch):
    """Nothing is noticed on the way, only in the end."""
    monkeypatch.setattr(Inspection, "_look_ahead", lambda self, layer, worst_B: None)
    monkeypatch.setattr(
        Inspection,
        "_look",
        lambda self, layer, probe, decision, planned: (decision, torch.zeros(1)),
    )
    policy = saa.Policy(mass=0.8, guard=saa.Guard(missed_mass=0.05, rows=4))
    trace = saa.run(smollm2, novel[:400], policy)
    assert trace.events[-1] == {"suspected": "bound", "done": "dense", "added": 1.0}
    assert "guard" in trace.execution.reason
    dense = saa.run(smollm2, novel[:400])
    torch.testing.assert_close(torch.tensor(trace.hidden), torch.tensor(dense.hidden))
    written = "".join(saa.generate(smollm2, novel[:400], policy, max_new_tokens=4))
    assert written == "".join(saa.generate(smollm2, novel[:400], max_new_tokens=4))


@pytest.mark.parametrize(("limit", "delta"), [(0.05, 0.05), (0.3, 0.01), (0.9, 0.5), (0.001, 0.1)])
def test_the_least_samples_are_the_first_that_can_show_the_limit(limit, delta):
    least = least_samples(limit, delta)
    assert upper_bound(torch.zeros(least), delta) <= limit
    assert least == 1 or upper_bound(torch.zeros(least - 1), delta) > limit


def test_rows_that_can_never_show_the_limit_are_refused(tiny):
    """Such a guard ran every request twice."""
    hf = tiny()
    model = saa.attach(hf, probe=False)
    ids = torch.arange(3, 63)[None]
    least = math.ceil(least_samples(0.05, 0.05) / len(model.gates))

    def guarded(rows):
        return saa.Policy(mass=1.0, guard=saa.Guard(0.05, rows=rows))

    with pytest.raises(saa.PolicyError, match=rf"rows=4: over 2 layers .* give {least} rows"):
        hf(ids, saa=saa.Call(guarded(4)))
    for enough in (least, None):
        call = saa.Call(guarded(enough))
        hf(ids, saa=call)
        assert call.checked().met


def test_heads_in_full_keep_what_is_allowed_and_nothing_else():
    allowed = Allowed(4, 4, True, torch.device("cpu"))
    count = allowed.count((1, 1))
    keep = torch.eye(4, dtype=torch.bool).expand(1, 2, 4, 4)
    none = torch.zeros(1, 2, 4, 4)
    forced = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    decision = Decision((1, 1), keep, none, none[..., 0], forced, count)
    found = in_full(decision, torch.tensor([[True, False]]))
    assert torch.equal(found.keep[0, 0], torch.ones(4, 4).tril().bool())
    assert torch.equal(found.keep[0, 1], keep[0, 1])
    assert (found.forced[0, 0] == saa.REASONS.index("dense")).sum() == 6
    assert not found.forced[0, 1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missed_mass": 0.0}, "missed_mass"),
        ({"delta": 1}, "delta"),
        ({"rows": 0}, "rows"),
        ({"rows": 1.5}, "rows"),
        ({"margin": -0.1}, "margin"),
        ({"missed_mass": None}, "check nothing"),
    ],
)
def test_bad_limits_are_refused(change, message):
    with pytest.raises(saa.PolicyError, match=message):
        saa.Guard(**change)


def test_what_a_guard_cannot_go_with_is_refused(minilm):
    with pytest.raises(saa.PolicyError, match="guard"):
        saa.Policy(guard=0.05)
    with pytest.raises(saa.PolicyError, match=r"force.*guard"):
        saa.Policy(guard=saa.Guard(), force=(saa.Force(keep=False, key=3),))
    with pytest.raises(saa.PolicyError, match="guard"):
        saa.run(minilm, "a text", saa.Policy(mass=1.0, tokens=1.0, guard=saa.Guard()))


@pytest.mark.parametrize("how", ["nan", "negated", "policy"])
def test_what_events_cost_is_what_was_added_to_the_gates_choice(how, smollm2, novel):
    """Shares of all allowed pairs, so the events of a run add up to the pairs with the guard's reasons."""
    policy = saa.Policy(mass=0.88 if how == "policy" else 0.97, guard=saa.Guard(0.05))
    model = smollm2 if how == "policy" else damage_gates(smollm2, how, layers=[2, 7])
    trace = saa.run(model, novel[:500], policy)
    added = [event["added"] for event in trace.events[:-1]]
    assert added
    reasons = [saa.REASONS.index(name) for name in ("probe", "dense")]
    layers, heads = trace.shape
    shares = [
        np.isin(trace.reason_map(layer, head), reasons).sum() / trace.allowed_count(layer).sum()
        for layer in range(layers)
        for head in range(heads)
    ]
    assert sum(added) == pytest.approx(np.mean(shares), rel=1e-6)
    suspected = {event["suspected"] for event in trace.events[:-1]}
    assert {"nan": "scores", "negated": "missed", "policy": "reserve"}[how] in suspected
