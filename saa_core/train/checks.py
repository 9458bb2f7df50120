"""What the configurations of training check in the same words. Every error names the argument."""

from typing import Any

from saa_core.errors import PolicyError

SHORTEST = 8
"""Tokens of the shortest window or text that anything can be learned from."""


def whole(config: Any, *names: str) -> None:
    """Whole numbers from 1 on."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise PolicyError(f"{name}={value!r} must be a whole number >= 1")


def rates(config: Any, *names: str) -> None:
    """Learning rates."""
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise PolicyError(f"{name}={getattr(config, name)!r} must be in (0, 1)")


def two_shares(config: Any, name: str) -> None:
    """The ends of a range of shares."""
    low, high = getattr(config, name)
    if not 0 < low <= high <= 1:
        raise PolicyError(
            f"{name}={getattr(config, name)!r} must be two shares in (0, 1], lowest first"
        )


def lengths(config: Any) -> None:
    """Window lengths in tokens."""
    if not config.lengths or min(config.lengths) < SHORTEST:
        raise PolicyError(
            f"lengths={config.lengths!r} must be window lengths of at least {SHORTEST} tokens"
        )
