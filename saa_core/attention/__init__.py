"""The seam to Transformers, and the call that steers one forward pass through it."""

from saa_core.attention.call import Call
from saa_core.attention.clock import Span, StageTimer
from saa_core.attention.plan import Plan, choose_kernel, decide

__all__ = ["Call", "Plan", "Span", "StageTimer", "choose_kernel", "decide"]
