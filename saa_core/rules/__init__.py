"""Scores -> keep. One file per rule; all of them see scores only, never a model or a kernel.

    rule(score, forced, count, target) -> keep, threshold

Args and shapes are those of :func:`mass`. A block that is not forced is kept if its score reaches
the threshold of its row.
"""

from collections.abc import Callable

from torch import Tensor

from saa_core.rules.budget import budget
from saa_core.rules.forced import apply_overrides, check_layers, forced
from saa_core.rules.mass import mass

Rule = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

RULES: dict[str, Rule] = {
    "budget": budget,
    "mass": mass,
}

__all__ = ["RULES", "Rule", "apply_overrides", "budget", "check_layers", "forced", "mass"]
