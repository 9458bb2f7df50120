"""Lets a model's own ``generate`` take ``saa=``."""

from collections.abc import Callable
from typing import Any

from saa_core.attention.call import Call
from saa_core.errors import PolicyError
from saa_core.types import Policy

PREPARE = "prepare_inputs_for_generation"


def take_generation(hf: Any) -> None:
    """Lets ``generate`` take ``saa=``: a wrapper on this instance."""
    if hasattr(hf, PREPARE) and PREPARE not in vars(hf):
        setattr(hf, PREPARE, _Prepare(hf))


def leave_generation(hf: Any) -> None:
    """Takes that wrapper away."""
    if isinstance(vars(hf).get(PREPARE), _Prepare):
        delattr(hf, PREPARE)


class _Prepare:
    """``prepare_inputs_for_generation`` of one model, which gives each forward that reads the prompt a
    Call. A copy of the model takes a copy of it along."""

    def __init__(self, hf: Any) -> None:
        self.hf = hf

    def __call__(self, *args: Any, saa: Any = None, **kwargs: Any) -> dict[str, Any]:
        """What forward is given.

        Args:
            saa: a Policy, or a function without arguments that returns a Call (to keep its record).
        """
        inputs: dict[str, Any] = getattr(type(self.hf), PREPARE)(self.hf, *args, **kwargs)
        reads_prompt = kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True)
        if saa is not None and reads_prompt:
            inputs["saa"] = _call_for(saa)
        return inputs


def _call_for(saa: Policy | Callable[[], Call]) -> Call:
    """A Call for one forward of ``generate``.

    Raises:
        PolicyError: it is neither a policy nor makes Calls; the policy's guard cannot keep its word.
    """
    if isinstance(saa, Policy):
        if saa.guard is not None and saa.guard.missed_mass is not None:
            raise PolicyError(
                "guard: hf.generate cannot read a prompt a second time where the limit was not met; use "
                "saa_core.run.generate, or give a function that makes Calls and look at call.checked()"
            )
        return Call(saa)
    if isinstance(saa, Call):
        raise PolicyError(
            "saa: a Call is for one forward, and generate makes many; give its policy, or a function "
            "that makes Calls"
        )
    made = saa() if callable(saa) else None
    if not isinstance(made, Call):
        raise PolicyError(f"saa={saa!r} must be a Policy, or a function that returns a new Call")
    return made
