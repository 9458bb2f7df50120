"""Calibrates the default mass by length: the least one that costs little on every kind of text.

A row is one kind of text, length, size of block and mass, with the loss of every window. The error bar is the
two-sided 95 % interval of Student's t over the windows, of the mean log-perplexity against dense; its upper end is
what has to be within the limit. (Bets need losses with a bound, and a bootstrap of a few windows is too narrow.)
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saa_core.bounds import student_interval
from saa_core.errors import ModelError, PolicyError, TextError
from saa_core.gates.defaults import MassEntry, MassTable
from saa_core.model import Model
from saa_core.train.config import MASS_BLOCKS, MASS_CHOICES, MASS_LENGTHS, MASS_LIMIT
from saa_core.train.evaluate import on_windows
from saa_core.types import PAIR_LIMIT, Policy, Progress


@dataclass(frozen=True)
class MassRow:
    """What one mass costs on one kind of text at one length.

    Args:
        kind: of text.
        block: (queries, keys) per decided block; (1, 1) is pair by pair.
        increases: log-perplexity against dense, by window, nats per token; two at least.
        density: kept / allowed pairs, mean.
    """

    kind: str
    length: int
    block: tuple[int, int]
    mass: float
    increases: tuple[float, ...]
    density: float = math.nan

    def __post_init__(self) -> None:
        for name in ("block", "increases"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the increase of perplexity, as a share: 0.01 is one percent."""
        low, high = student_interval(self.increases)
        return math.expm1(low), math.expm1(high)


def choose_masses(
    rows: Sequence[MassRow], limit: float = MASS_LIMIT, about: Mapping[str, Any] | None = None
) -> MassTable:
    """The least mass of each length and block of which the upper end is within the limit on every kind, as
    it is for every larger mass that was measured: of many masses the least one is the lucky one.

    Where even the largest is over the limit the table says 1.0, which leaves out nothing.

    Args:
        rows: each mass on the same kinds, at least one of them per length and block.
        limit: highest increase of perplexity, as a share.

    Raises:
        PolicyError: there are no rows, the limit is not positive, or a mass was not measured on every
            kind, of which it names the missing ones.
    """
    if not rows or limit <= 0:
        raise PolicyError(f"rows={len(rows)}, limit={limit!r}: rows are needed, and a limit over 0")
    places = dict.fromkeys((row.length, row.block) for row in rows)
    entries = []
    for length, block in places:
        own = [row for row in rows if (row.length, row.block) == (length, block)]
        kinds = {row.kind for row in own}
        by_mass = {
            mass: [row for row in own if row.mass == mass]
            for mass in sorted({row.mass for row in own}, reverse=True)
        }
        for mass, here in by_mass.items():
            if missing := kinds - {row.kind for row in here}:
                raise PolicyError(
                    f"rows: mass {mass:g} at {length} tokens in blocks of {block[0]} x {block[1]} was not "
                    f"measured on: {', '.join(sorted(missing))}"
                )
        chosen = 1.0
        for mass, here in by_mass.items():
            if any(row.interval[1] > limit for row in here):
                break
            chosen = mass
        entries.append(MassEntry(length, block, chosen))
    return MassTable(tuple(entries), dict(about or {}))


def measure_masses(
    model: Model,
    texts: Mapping[str, str],
    *,
    lengths: Sequence[int] = MASS_LENGTHS,
    blocks: Sequence[tuple[int, int]] = MASS_BLOCKS,
    masses: Sequence[float] = MASS_CHOICES,
    windows: int = 12,
    baseline: Model | None = None,
    progress: Progress | None = None,
) -> list[MassRow]:
    """Measures rows: texts of up to 512 tokens pair by pair, longer ones in each size of block, as they are
    decided, with the default tail.

    Args:
        texts: by kind; none of them taught the gates.
        windows: of each kind and length; fewer where a text is too short.
        baseline: the original where ``model`` has an adapter; the increase counts from it.

    Raises:
        ModelError: the model is an encoder, or has an adapter and no baseline is given.
        TextError: a text is shorter than two windows.
    """
    if model.spec.adapter is not None and baseline is None:
        raise ModelError(
            f"model={model.spec.title!r} has an adapter; give the model without it as baseline"
        )
    plain = replace(model.spec.policy, budget=None, rule="auto", guard=None, force=(), tokens=None)
    plain = replace(plain, fallback="never", default_at=None)
    found = []
    for place, length in enumerate(lengths):
        sizes = [(1, 1)] if length <= PAIR_LIMIT else list(blocks)
        policies = [_decided_in(plain, size, mass) for size in sizes for mass in masses]
        for index, (kind, text) in enumerate(texts.items()):
            done = place * len(texts) + index
            _, losses, densities = on_windows(
                model, text, length, policies, windows=windows, baseline=baseline
            )
            if len(losses[0]) < 2:
                raise TextError(f"texts: {kind!r} has fewer than two windows of {length} tokens")
            for policy, increases, density in zip(policies, losses, densities, strict=True):
                block = policy.block_for(length)
                mean = sum(density) / len(density)
                found.append(MassRow(kind, length, block, policy.aim, tuple(increases), mean))
            if progress:
                progress(done + 1, len(lengths) * len(texts))
    return found


def _decided_in(plain: Policy, block: tuple[int, int], mass: float) -> Policy:
    if block == (1, 1):
        return replace(plain, mass=mass, granularity="pair")
    return replace(plain, mass=mass, granularity="block", block=block)


def read_rows(file: Path) -> list[MassRow]:
    """Rows of a file.

    Raises:
        PolicyError: naming the file; it cannot be read.
    """
    try:
        return [MassRow(**about) for about in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise PolicyError(f"rows={str(file)!r} cannot be read: {error}") from error


def latest(rows: Sequence[MassRow]) -> list[MassRow]:
    """Of rows of the same kind, length, block and mass the last one."""
    return list({(row.kind, row.length, row.block, row.mass): row for row in rows}.values())
