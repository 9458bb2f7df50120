"""The seam to Transformers, and the call that steers one forward pass through it."""

from saa_core.attention.call import Call
from saa_core.attention.choice import choose_kernel, decide
from saa_core.attention.clock import Span, StageTimer
from saa_core.attention.plan import Plan

__all__ = ["Call", "Plan", "Span", "StageTimer", "choose_kernel", "decide"]
