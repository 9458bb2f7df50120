"""Budgets on every page: the slider, the address and its way back, what pages say about the policy."""

from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import saa_core as saa
from app.live.models import REGISTRY
from app.service import Client
from saa_core.explain.tradeoff import Point
from saa_core.gates.defaults import MassEntry, MassTable

ROOT = Path(__file__).parents[2]
TEXT = (
    "The ferry leaves at nine. If the sea is calm, the ferry reaches the island by ten, and the "
    "passengers have five hours to see the chapel, the old harbour and the three windmills."
)
DEFAULT = saa.Policy(budget=0.6)


def page(name: str = "explore", **address: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app" / "router.py"), default_timeout=300)
    for key, value in {"lang": "en", "model": "smollm2", **address}.items():
        at.query_params[key] = value
    at.run()
    return at if name == "explore" else at.switch_page(f"views/{name}.py").run()


def said(at: AppTest) -> str:
    kinds = (at.markdown, at.caption, at.header, at.subheader, at.info, at.warning)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "cold", lambda self, name: [])


@pytest.fixture
def budget_model() -> None:
    """The app's model as if its gate came with a budget as default."""
    model = REGISTRY.get("smollm2")
    REGISTRY.put("smollm2", replace(model, spec=replace(model.spec, policy=DEFAULT)))
    yield
    REGISTRY.put("smollm2", model)


@pytest.mark.model
def test_the_slider_shows_the_aim_of_the_rule_in_force(budget_model) -> None:
    at = page()
    assert at.slider(key="budget").value == 0.6
    assert not [slider for slider in at.slider if slider.key == "mass"]
    assert at.session_state.choice.policy == DEFAULT
    assert "0.60 of the pairs" in said(at)
    at.slider(key="budget").set_value(0.3).run()
    assert at.session_state.choice.policy == replace(DEFAULT, budget=0.3)
    at.selectbox(key="rule").set_value("mass").run()
    policy = at.session_state.choice.policy
    assert (policy.rule_name, policy.aim, policy.budget) == ("mass", 0.95, None)
    at.selectbox(key="rule").set_value("budget").run()
    assert at.session_state.choice.policy.rule_name == "budget"


@pytest.mark.model
def test_a_link_to_a_budget_opens_as_that_budget() -> None:
    at = page(text=TEXT, budget="0.55")
    assert not at.exception
    (request,) = at.session_state["results"]
    assert (request.policy.rule_name, request.policy.aim) == ("budget", 0.55)
    assert at.query_params["budget"] == "0.55"
    assert "mass" not in at.query_params
    again = page(**{name: str(value) for name, value in at.query_params.items()})
    (second,) = again.session_state["results"]
    assert second == request


@pytest.mark.model
def test_an_old_link_keeps_its_mass_also_where_the_default_is_a_budget(budget_model) -> None:
    at = page(mass="0.60")
    policy = at.session_state.choice.policy
    assert (policy.mass, policy.budget) == (0.6, None)


@pytest.mark.model
@pytest.mark.parametrize("aim", ["0", "1.2", "nan", "-1", "x"])
def test_a_budget_that_makes_no_sense_is_ignored(aim: str) -> None:
    at = page(budget=aim)
    assert not at.exception
    assert at.session_state.choice.policy.rule_name == "mass"


@pytest.mark.model
def test_every_page_shows_a_budget(budget_model, monkeypatch) -> None:
    at = page(text=TEXT)
    assert not at.exception
    (request,) = at.session_state["results"]
    assert request.policy == DEFAULT
    at.slider(key="budget").set_value(0.5).run()
    assert "budget 0.6" in next(w.value for w in at.warning).replace("\\", "")
    points = [Point(mass, mass, 1 - mass, mass) for mass in (0.5, 0.8, 0.9, 1.0)]
    monkeypatch.setattr(Client, "sweep", lambda self, result, report: points)
    for name in ("gate_map", "compare", "latency", "trust", "cost"):
        at.switch_page(f"views/{name}.py").run()
        assert not at.exception, name
        assert not at.error, (name, [error.value for error in at.error])
        assert "mass" not in at.query_params, name
        if name == "gate_map":
            assert "budget 0.6" in said(at)
        if name == "latency":
            at.button(key="sweep").click().run()
            assert not at.error
            assert not at.exception
            at.button(key="use-knee").click().run()
            assert at.session_state.choice.policy.rule_name == "mass"
            at.selectbox(key="rule").set_value("budget").run()


@pytest.mark.model
def test_side_b_of_a_comparison_takes_and_keeps_a_budget() -> None:
    at = page("compare", text=TEXT, b_how="saa", b_budget="0.30")
    assert not at.exception
    assert not at.error
    first, second = at.session_state["compared"].sides
    assert (first.policy.rule_name, second.policy.rule_name) == ("mass", "budget")
    assert second.policy.aim == 0.3
    assert at.query_params["b_budget"] == "0.30"
    assert "b_mass" not in at.query_params


def test_a_policy_takes_another_aim() -> None:
    policy = saa.Policy(mass=0.9, sink=2, rule="mass")
    budget = policy.with_aim("budget", 0.4)
    assert (budget.mass, budget.budget, budget.rule_name, budget.sink) == (None, 0.4, "budget", 2)
    assert policy.with_aim("mass", 0.8) == replace(policy, mass=0.8)
    with pytest.raises(saa.PolicyError, match="rule="):
        policy.with_aim("top", 0.5)
    with pytest.raises(saa.PolicyError, match="budget="):
        policy.with_aim("budget", 2.0)


@pytest.fixture
def default_by_length() -> None:
    """The app's model as if its gates said a mass for each length."""
    model = REGISTRY.get("smollm2")
    before = [gate.defaults for gate in model.gates]
    entries = (MassEntry(512, (1, 1), 0.91), MassEntry(1024, (32, 16), 0.88))
    for gate in model.gates:
        gate.defaults = MassTable(entries)
    REGISTRY.put("smollm2", replace(model, spec=replace(model.spec, policy=saa.Policy())))
    yield
    REGISTRY.put("smollm2", model)
    for gate, table in zip(model.gates, before, strict=True):
        gate.defaults = table


@pytest.mark.model
def test_a_default_that_follows_the_length_is_said_and_used(default_by_length) -> None:
    at = page(text=TEXT)
    assert not at.exception
    (request,) = at.session_state["results"]
    assert request.policy == saa.Policy(), "until the slider is moved"
    (result,) = at.session_state["results"].values()
    assert result.trace.policy.mass == 0.91
    assert "512: 0.91 · 1,024: 0.88" in said(at)
    assert at.slider(key="mass").value == 0.88
    assert "mass" not in at.query_params, "a link says the default by saying nothing"
    for name in ("gate_map", "compare", "latency", "trust", "cost", "explore"):
        at.switch_page(f"views/{name}.py").run()
        assert not at.exception, name
        assert not at.error, (name, [error.value for error in at.error])
    at.slider(key="mass").set_value(0.7).run()
    assert at.session_state.choice.policy.aim == 0.7
    assert "default mass" in next(w.value for w in at.warning).replace("\\", "")
