"""What the profiles of this machine say of a model's texts: computed densely, or decided.

Pairs are asked for by the call itself (attention/call.py); here are tokens, which leave before any attention
is called, and what a page or a command says of either.
"""

from collections.abc import Sequence

import torch

from saa_core.attention.fallback import pair_verdict
from saa_core.attention.profiles import Verdict, this_machine, verdict
from saa_core.model import Model
from saa_core.types import Policy


def token_verdict(model: Model, policy: Policy, batch: Sequence[Sequence[int]]) -> Verdict | None:
    """Of a batch of a task's texts whose tokens are to be dropped: by their mean length. None where tokens
    are dropped whatever was measured.
    """
    if policy.fallback != "auto" or model.task is None or not batch:
        return None
    if policy.tokens is None or policy.tokens >= 1 or model.task.side == "dense":
        return None
    return verdict(
        max(1, round(sum(map(len, batch)) / len(batch))),
        gate=model.spec.title,
        shape=model.gates[0].shape,
        dtype=dtype_name(model),
        machine=this_machine(model.device, torch.get_num_threads()),
        kind="tokens",
        batch=len(batch),
    )


def verdict_for(model: Model, policy: Policy | None, length: int) -> Verdict | None:
    """Of one text of a length in tokens: what happens to it where nothing is recorded."""
    if policy is None:
        return None
    if policy.tokens is not None:
        return token_verdict(model, policy, [[0] * length])
    return pair_verdict(policy, model.gates[0], length, model.dtype, model.device)


def dtype_name(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")
