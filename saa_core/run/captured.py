"""A language model's prefill as CUDA graphs: one launch for the host, whatever the model does inside.

Up to about 8k tokens a GPU waits for the host, which starts hundreds of kernels one by one; a graph starts them
all. One graph serves every text up to its length (a bucket): what stands behind the text is computed and thrown
away, and decisions read the text's true length from the device. Dense prefill is captured in the same way, so
that the two can be compared.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saa_core.attention import Call
from saa_core.errors import KernelError, TextError
from saa_core.model import Model
from saa_core.types import Policy

SMALLEST = 256
"""Tokens of the smallest bucket."""
STEPS = 4
"""Buckets from one power of two to the next."""
WARM_UP = 3


def bucket_for(length: int) -> int:
    """Length of the graph that serves a text: at most a quarter is computed for nothing, from SMALLEST on."""
    step = max(SMALLEST, (1 << (length - 1).bit_length()) // (2 * STEPS))
    return -(-length // step) * step


class Captured:
    """Prefill of one model under one policy.

    Args:
        policy: None is dense. One that leaves its mass to the gates' default gets that of the bucket.
        exact: each length is a graph of its own, which any kernel can compute; else only ``kernel="triton"``.

    Raises:
        KernelError: the model is not on a CUDA GPU, or is no language model (later tokens would be seen).
    """

    def __init__(self, model: Model, policy: Policy | None = None, *, exact: bool = False) -> None:
        if model.device.type != "cuda":
            raise KernelError(
                f"device={model.device.type!r} has no graphs; a model on 'cuda' can be captured"
            )
        if not model.causal:
            raise KernelError(
                f"model={model.spec.name!r} is an encoder, whose texts would see what stands behind "
                "them; only language models are captured"
            )
        self.model = model
        self.policy = None if policy is None else policy.decided()
        self.exact = exact
        self._graphs: dict[int, _Graph] = {}

    def __call__(self, ids: Sequence[int]) -> Tensor:
        """Final hidden states [N, E] of one text; the next call overwrites them."""
        if not 1 <= len(ids) <= self.model.max_length:
            raise TextError(
                f"ids holds {len(ids)} tokens; {self.model.spec.name} takes 1 to {self.model.max_length}"
            )
        size = len(ids) if self.exact else min(bucket_for(len(ids)), self.model.max_length)
        if size not in self._graphs:
            self._graphs[size] = _Graph(self.model, self.policy, size, self.exact)
        return self._graphs[size].run(torch.tensor(ids))


class _Graph:
    """One captured length."""

    def __init__(self, model: Model, policy: Policy | None, size: int, exact: bool) -> None:
        device = model.device
        self.ids = torch.zeros(1, size, dtype=torch.int64, device=device)
        self.live = torch.full((2,), size, dtype=torch.int32, device=device)
        live = None if exact else self.live
        self.graph = torch.cuda.CUDAGraph()

        def forward() -> Tensor:
            call = Call(policy, fall_back=False, live=live)
            states: Tensor = model.hf.base_model(
                self.ids, saa=call, use_cache=False
            ).last_hidden_state
            return states

        with torch.inference_mode():
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):  # compiles, and measures nothing
                    forward()
            torch.cuda.current_stream(device).wait_stream(side)
            with torch.cuda.graph(self.graph):
                self.states = forward()

    def run(self, ids: Tensor) -> Tensor:
        length = len(ids)
        self.ids[0, :length].copy_(ids)
        self.live.fill_(length)
        self.graph.replay()
        return self.states[0, :length]
