"""Whether a text is computed densely, although there is a policy: because sparsity gains no time there.

Never where a decision is what is asked for: that is said by who makes the call (``fall_back``). A text that is
only computed is computed as fast as this machine was measured to be.
"""

from dataclasses import replace

import torch

from saa_core.attention.profiles import Verdict, this_machine, verdict
from saa_core.gates.pair import PairGate
from saa_core.types import Policy


def crossover_reason(policy: Policy, length: int) -> str:
    """Why ``fallback="dense"`` computes a text of this length densely; empty: it does not."""
    if not policy.falls_back(length):
        return ""
    return (
        f"{length} tokens are fewer than the crossover of {policy.crossover}, and the policy falls back "
        "to dense there"
    )


def pair_verdict(
    policy: Policy, gate: PairGate, length: int, dtype: torch.dtype, device: torch.device
) -> Verdict | None:
    """What the profiles say of a text under ``fallback="auto"``; None where it is decided whatever they say:
    another fallback was asked for, a person's overrides, a kernel or a granularity that was not measured,
    damaged gates, or nothing was measured of such a model.

    Args:
        gate: of the first layer.
    """
    usual = replace(policy, granularity="auto").block_for(length)
    if (
        policy.fallback != "auto"
        or policy.force
        or policy.kernel != "auto"
        or policy.block_for(length) != usual
        or gate.damaged
    ):
        return None
    found = verdict(
        length,
        gate=gate.id,
        shape=gate.shape,
        dtype=str(dtype).removeprefix("torch."),
        machine=this_machine(device, torch.get_num_threads()),
        block=policy.block,
    )
    if found is None or not found.dense:
        return found
    return found if gate.sound else None
