"""A tiny forward that checks that keeping every pair is what this very model computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from saa_core.attention.call import Call, Dense
from saa_core.errors import ModelError, SAAError
from saa_core.families import Family
from saa_core.families.arguments import Handed
from saa_core.gates.pair import PairGate
from saa_core.types import Policy

PROBED_TOKENS = 8


TOLERANCE = 1e-4
"""Largest difference between mass 1.0 and dense that the probe accepts, relative to dense."""


class _Probe(Call):
    """Compares every layer that keeps everything with what the model computes itself, in float32, and goes
    on with the latter: layers are judged one by one, and whatever rounding does to a model."""

    def __init__(self) -> None:
        super().__init__(Policy(mass=1.0, granularity="pair", kernel="reference"))
        self.difference = 0.0
        self.again = False

    def attend(
        self, module: nn.Module, handed: Handed, dense: Dense
    ) -> tuple[Tensor, Tensor | None]:
        gate: PairGate = module.saa_gate  # type: ignore[assignment]
        self.again |= gate.layer in self.met
        precise = replace(handed, q=handed.q.float(), k=handed.k.float(), v=handed.v.float())
        found, expected = super().attend(module, precise, dense)[0], dense(True)[0]
        seen = self._plan(gate, handed).allowed.pairs.any(-1)[:, 0, :, None, None]
        size = (expected * seen).norm().clamp(min=1e-20)
        difference = float(((found - expected) * seen).norm() / size)
        self.difference = max(
            self.difference, difference if difference == difference else torch.inf
        )
        return dense()


def probe_model(hf: Any, family: Family) -> None:
    """Raises ModelError where mass 1.0 is not what this very model computes."""
    name, call = f"hf={type(hf).__name__}", _Probe()
    ids, mask = _probe_input(hf, family)
    extra = {"use_cache": False} if family.causal else {}
    try:
        with torch.no_grad(), _undisturbed(hf):
            hf.base_model(input_ids=ids, attention_mask=mask, saa=call, **extra)
    except SAAError as error:
        raise ModelError(f"{name} cannot run under a policy: {error}") from error
    except Exception as error:
        raise ModelError(
            f"{name}: forward(input_ids, attention_mask) failed on {tuple(ids.shape)} tokens with "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; if it needs "
            "other inputs, attach with probe=False"
        ) from error
    layers = len(family.attentions(hf))
    if call.again or len(call.met) < layers:
        raise ModelError(
            f"{name} has {layers} attention modules, of which one forward met {len(call.met)}"
            f"{', some of them several times' if call.again else ''}; SAA needs each exactly once"
        )
    if call.difference > TOLERANCE:
        raise ModelError(
            f"{name}: keeping every pair differs from its own attention by {call.difference:.2g} of it "
            f"(at most {TOLERANCE:g}, both in float32), so its attention is of a kind that SAA does not "
            "know"
        )


def _probe_input(hf: Any, family: Family) -> tuple[Tensor, Tensor]:
    """Two texts of token ids, one of them padded on the usual side, [2, N] each."""
    table = hf.get_input_embeddings().weight
    special = {getattr(hf.config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")}
    usual = [i for i in range(min(len(table), 4 * PROBED_TOKENS)) if i not in special] or [0]
    count = min(PROBED_TOKENS, family.max_length(hf.config))
    ids = torch.tensor(usual)[torch.arange(2 * count) % len(usual)].view(2, count)
    mask = torch.ones_like(ids)
    padding = count // 3
    mask[1, slice(padding) if family.causal else slice(count - padding, count)] = 0
    return ids.to(table.device), mask.to(table.device)


@contextmanager
def _undisturbed(hf: nn.Module) -> Iterator[None]:
    """Evaluation mode and whole float32 products for a while; then all is as it was, modes, buffers and
    random numbers too."""
    training = [module for module in hf.modules() if module.training]
    buffers = [
        (module, name, value, None if value is None else value.clone())
        for module in hf.modules()
        for name, value in module._buffers.items()
    ]
    precision = torch.get_float32_matmul_precision()
    devices = {parameter.device for parameter in hf.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            for module in training:
                module.training = False
            torch.set_float32_matmul_precision("highest")
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for module in training:
            module.training = True
        with torch.no_grad():
            for module, name, value, copy in buffers:
                module._buffers[name] = value
                if value is not None and copy is not None:
                    value.copy_(copy)
