"""The true attention mass: exact by default, and from drawn queries an estimate that says how far it may be off."""

import numpy as np
import pytest
import torch

import saa_core as saa
from saa_core.pairs import Allowed
from saa_core.run.execute import execute, forward
from saa_core.trace.mass import drawn_mass, drawn_queries, true_mass

LENGTH, DRAWN = 700, 64


@pytest.fixture
def model(tiny):
    return saa.attach(tiny(max_position_embeddings=1024))


@pytest.fixture
def ids():
    return torch.randint(3, 90, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()


POLICY = saa.Policy(mass=0.6, granularity="block", local=16, sink=4, tail=16)


def test_each_stretch_of_a_text_gives_one_query_and_every_query_has_its_chance():
    drawn = drawn_queries(1000, 128)
    assert len(drawn) == len(set(drawn.tolist())) == 128
    assert all(7 * at <= query <= 8 * (at + 1) for at, query in enumerate(drawn.tolist()))
    assert torch.equal(drawn, drawn_queries(1000, 128)), "the draw is the same every time"
    assert drawn_queries(128, 128) is None


@pytest.mark.parametrize("policy", [None, POLICY], ids=["dense", "saa"])
def test_drawn_queries_have_the_mass_that_they_have_among_all(model, ids, policy):
    whole = execute(model, [ids], policy, "full").call
    some = execute(model, [ids], policy, "full", mass_rows=DRAWN).call
    rows = drawn_queries(LENGTH, DRAWN)
    for layer, record in some.layers.items():
        exact = whole.layers[layer]
        assert torch.equal(record.mass_queries, rows)
        torch.testing.assert_close(record.retained_rows, exact.retained_rows[:, :, rows])
        torch.testing.assert_close(record.retained_mass, record.retained_rows.mean(2))
        torch.testing.assert_close(record.density, exact.density)
        assert exact.mass_queries is None


def test_the_interval_of_an_estimate_holds_the_exact_mass(model, ids):
    exact = execute(model, [ids], POLICY, "full").call.trace()
    drawn = execute(model, [ids], POLICY, "full", mass_rows=DRAWN).call.trace()
    low, high = drawn.retained_interval()
    assert low < exact.retained_mass.mean() < high
    assert low < drawn.retained_mass.mean() < high
    assert high - low < 0.1
    assert exact.retained_interval() is None
    assert "estimated; 95 % interval" in drawn._repr_html_()
    assert "estimated" not in exact._repr_html_()
    narrow, wide = drawn.retained_interval(0, 1)
    assert narrow < drawn.retained_mass[0, 1] < wide
    with pytest.raises(saa.TraceError, match="head=9"):
        drawn.retained_interval(0, 9)


def test_a_text_that_is_no_longer_than_the_draw_is_exact(model, ids):
    found = execute(model, [ids], POLICY, "full", mass_rows=LENGTH).call.trace()
    assert found.mass_queries is None
    assert found.retained_interval() is None


def test_every_token_has_a_viewer(model, ids):
    found = execute(model, [ids], POLICY, "full", mass_rows=DRAWN).call.trace()
    exact = execute(model, [ids], POLICY, "full").call.trace()
    assert (found.attention_received > 0).all()
    whole, some = (trace.attention_received.mean((0, 1)) for trace in (exact, found))
    assert np.corrcoef(whole, some)[0, 1] > 0.9


def test_a_mask_with_gaps_is_read_pair_by_pair():
    q, k = torch.randn(2, 4, 40, 16), torch.randn(2, 2, 40, 16)
    given = torch.ones(2, 1, 40, 40, dtype=torch.bool).tril()
    given[:, :, :, 7] = False
    given[:, :, 7, 7] = True
    allowed = Allowed(40, 40, True, q.device, given)
    rows = drawn_queries(40, 8)
    kept, seen, _ = drawn_mass(q, k, None, allowed, 0.25, rows)
    exact, _ = true_mass(q, k, None, allowed, 0.25)
    torch.testing.assert_close(kept, exact[:, :, rows])
    assert seen.all()


def test_the_estimate_is_stored_with_its_queries(model, ids, tmp_path):
    trace = execute(model, [ids], POLICY, "full", mass_rows=DRAWN).call.trace()
    stored = saa.Trace.load(trace.save(tmp_path / "run.saa"))
    assert np.array_equal(stored.mass_queries, trace.mass_queries)
    assert stored.retained_interval() == trace.retained_interval()


def test_fewer_than_two_queries_are_refused():
    with pytest.raises(saa.PolicyError, match="mass_rows=1 must be"):
        saa.Call(POLICY, "full", mass_rows=1)


def test_a_pass_says_how_far_it_is_and_ends_where_it_is_told_to(model, ids):
    seen: list[tuple[int, int]] = []
    execute(model, [ids], POLICY, progress=lambda *at: seen.append(at))
    layers = len(model.gates)
    assert seen == [(at, layers) for at in range(layers + 1)]

    class EndError(Exception):
        pass

    def end(at: int, of: int) -> None:
        seen.append((at, of))
        if at == 1:
            raise EndError

    seen.clear()
    with pytest.raises(EndError):
        execute(model, [ids], None, progress=end)
    assert seen == [(0, layers), (1, layers)]
    plain = forward(model, torch.tensor([ids]), saa.Call())
    torch.testing.assert_close(execute(model, [ids]).states, plain[0])
