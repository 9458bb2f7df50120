"""The policy that a request asks for, within what the operator allows. Needs no PyTorch."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from saa_core.errors import PolicyError, choice
from saa_core.serve.settings import Bounds
from saa_core.types import Guard, Policy

DENSE, DEFAULT = "dense", "default"
GUARD_FIELDS = ("missed_mass", "delta", "margin")
MOST_FORCED = 64
"""Overrides in one policy."""


def policy_asked(
    asked: object, named: Mapping[str, Policy | None], first: str, bounds: Bounds
) -> Policy | None:
    """The policy of a request; None is dense.

    Args:
        asked: a name of ``named``, or fields that replace those of the model's own policy; None is the
            one that the operator named.
        named: the policies of the model, "default" and "dense" among them.
        first: the name of the one that holds where nothing is asked for.

    Raises:
        PolicyError: the name or a field is not known, or a value is out of its range or of the bounds.
    """
    name = first if asked is None else asked
    if isinstance(name, str):
        if name not in named:
            raise PolicyError(choice("saa.policy", name, named))
        found = named[name]
        return found if name not in (DEFAULT, DENSE) else _guarded(found, bounds)
    if not isinstance(asked, Mapping):
        raise PolicyError("saa.policy must be a name, or an object with fields of a policy")
    base = named[DEFAULT]
    assert base is not None
    return _guarded(_changed(base, asked, bounds), bounds)


def _changed(base: Policy, asked: Mapping[str, Any], bounds: Bounds) -> Policy:
    for name in asked:
        if name not in bounds.fields:
            raise PolicyError(choice("a field of saa.policy", name, bounds.fields))
    given = dict(asked)
    if isinstance(given.get("guard"), Mapping):
        for name in given["guard"]:
            if name not in GUARD_FIELDS:
                raise PolicyError(choice("a field of saa.policy.guard", name, GUARD_FIELDS))
        given["guard"] = Guard(**given["guard"])
    if "mass" in given:
        given |= {"budget": given.get("budget"), "rule": "auto"}
    elif given.get("budget") is not None:
        given |= {"mass": None, "rule": "auto"}
    if isinstance(given.get("force"), (list, tuple)) and len(given["force"]) > MOST_FORCED:
        raise PolicyError(
            f"saa.policy.force holds {len(given['force'])}; {MOST_FORCED} is the most"
        )
    for name in ("sink", "local", "tail"):
        if isinstance(given.get(name), bool):
            raise PolicyError(f"saa.policy.{name} must be a whole number of tokens")
    try:
        found = Policy(**{**_fields(base), "default_at": None, **given})
    except TypeError as error:
        raise PolicyError(f"saa.policy: {error}") from error
    for name in ("mass", "budget", "tokens"):
        value, least = getattr(found, name), getattr(bounds, name)
        if name in given and value is not None and value < least:
            raise PolicyError(
                f"saa.policy.{name}={value:g} is less than the {least:g} that this server allows"
            )
    return found


def _fields(policy: Policy) -> dict[str, Any]:
    """A policy's own values; a nested guard stays one."""
    return {**asdict(policy), "guard": policy.guard, "force": policy.force}


def _guarded(policy: Policy | None, bounds: Bounds) -> Policy | None:
    """With the guard that the operator demands where pairs are left out."""
    if policy is None or bounds.missed_mass is None or policy.tokens is not None:
        return policy
    if policy.aims and policy.aim >= 1 and all(force.keep for force in policy.force):
        return policy
    limit, own = Guard(bounds.missed_mass), policy.guard
    if own is None:
        return replace(policy, guard=limit)
    missed = bounds.missed_mass
    if own.missed_mass is not None:
        missed = min(own.missed_mass, missed)
    return replace(
        policy, guard=replace(own, missed_mass=missed, delta=min(own.delta, limit.delta))
    )
