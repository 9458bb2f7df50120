"""The policy of a request: names, fields, and the operator's bounds."""

import pytest

import saa_core as saa
from saa_core.serve.asked import policy_asked
from saa_core.serve.client import asked_fields
from saa_core.serve.settings import Bounds

OWN = saa.Policy(mass=0.93)
STRICT = saa.Policy(mass=0.5)
NAMED = {"dense": None, "default": OWN, "strict": STRICT}


def asked(value, bounds=None, first="default"):
    return policy_asked(value, NAMED, first, bounds or Bounds())


def test_names():
    assert asked(None) == OWN
    assert asked(None, first="dense") is None
    assert asked("dense") is None
    assert asked("strict") == STRICT, "an operator's own policy is not bounded"
    with pytest.raises(saa.PolicyError, match="strict"):
        asked("loose")


def test_fields_replace_those_of_the_models_own():
    found = asked({"tail": 8, "guard": {"missed_mass": 0.1}, "force": [{"key": 3}]})
    assert found.mass == 0.93
    assert found.tail == 8
    assert found.guard == saa.Guard(0.1)
    assert found.force == (saa.Force(key=3),)
    assert asked({"budget": 0.4}).mass is None


@pytest.mark.parametrize(
    "value",
    [
        {"mass": 0.5},
        {"budget": 0.1},
        {"mass": 0.9, "budget": 0.9},
        {"mass": "high"},
        {"mass": True, "sink": True},
        {"rule": "mass"},
        {"block": [1, 1]},
        {"guard": {"rows": 1000000}},
        {"guard": 7},
        {"force": [{"key": 1}] * 65},
        {"force": [{"nothing": 1}]},
        {"force": 5},
        ["mass"],
        7,
    ],
)
def test_what_is_not_allowed_is_refused(value):
    with pytest.raises(saa.PolicyError):
        asked(value)


def test_the_operator_may_demand_a_guard():
    bounds = Bounds(fields=("mass", "guard"), missed_mass=0.05)
    assert asked(None, bounds).guard.missed_mass == 0.05
    assert asked({"guard": {"missed_mass": 0.2}}, bounds).guard.missed_mass == 0.05
    assert asked({"guard": {"missed_mass": 0.01}}, bounds).guard.missed_mass == 0.01
    assert asked({"guard": None}, bounds).guard.missed_mass == 0.05
    assert asked({"guard": {"missed_mass": 0.5, "delta": 0.99}}, bounds).guard == saa.Guard(0.05)
    assert asked({"mass": 1.0}, bounds).guard is None, "nothing is left out"
    wide = Bounds(missed_mass=0.05)
    excluded = {"mass": 1.0, "force": [{"key": 3, "keep": False}]}
    with pytest.raises(saa.PolicyError, match="cannot be excluded under a guard"):
        asked(excluded, wide)
    assert asked(excluded | {"force": [{"key": 3}]}, wide).guard is None
    assert asked("dense", bounds) is None
    with pytest.raises(saa.PolicyError, match="tail"):
        asked({"tail": 1}, bounds)


def test_a_policy_travels_as_fields():
    policy = saa.Policy(
        mass=0.97, guard=saa.Guard(0.02, 0.1), force=(saa.Force(True, 1, query=(2, 3)),)
    )
    assert asked(asked_fields(policy)) == policy
