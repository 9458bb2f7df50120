"""Options of a policy over a model's default, whichever rule that has."""

import argparse

import pytest

from saa_core import Policy, PolicyError
from saa_core.cli.main import POLICY_OPTIONS, _policy


def options(**given: object) -> argparse.Namespace:
    names = (*POLICY_OPTIONS, "guard", "delta")
    return argparse.Namespace(**{**dict.fromkeys(names), **given})


@pytest.mark.parametrize(
    ("default", "given", "expected"),
    [
        (Policy(budget=0.6, sink=2), {"mass": 0.8}, Policy(mass=0.8, sink=2)),
        (Policy(mass=0.9, sink=2), {"budget": 0.3}, Policy(budget=0.3, sink=2)),
        (Policy(budget=0.6, sink=2), {"local": 8}, Policy(budget=0.6, sink=2, local=8)),
    ],
    ids=["mass over a budget", "budget over a mass", "neither"],
)
def test_one_rule_takes_the_place_of_the_other(default, given, expected) -> None:
    assert _policy(options(**given), default) == expected


def test_both_rules_at_once_are_refused() -> None:
    with pytest.raises(PolicyError, match="exclude each other"):
        _policy(options(mass=0.8, budget=0.3), Policy(budget=0.6))
