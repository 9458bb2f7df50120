"""Sparse Adaptive Attention: a learned gate decides which token pairs a Transformer computes.

model = saa_core.load("smollm2")
trace = saa_core.run(model, "Some text.", saa_core.Policy(mass=0.95))

Names are imported when they are first used, so that what needs no PyTorch starts without it.
"""

import importlib
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saa_core.attach.attach import attach, detach
    from saa_core.attach.save import save_gates
    from saa_core.attention.call import Call
    from saa_core.certify.certificate import Certificate, certify_policy
    from saa_core.certify.limits import RiskLimit
    from saa_core.certify.policy_file import StoredPolicy, load_policy, save_policy
    from saa_core.errors import (
        DeckError,
        FetchError,
        GateError,
        KernelError,
        ModelError,
        PolicyError,
        SAAError,
        StoreError,
        TextError,
        TraceError,
    )
    from saa_core.export.engine import open_engine
    from saa_core.export.export import export
    from saa_core.loading import load
    from saa_core.model import Model, Spec
    from saa_core.run.generate import generate
    from saa_core.run.text import run
    from saa_core.run.timing import measure
    from saa_core.store import Store
    from saa_core.trace.compare import Comparison, compare
    from saa_core.trace.trace import Trace
    from saa_core.train.config import JointConfig, TrainConfig
    from saa_core.train.distil import TrainStep, train_gates
    from saa_core.train.joint import JointStep, save_adapter, train_joint
    from saa_core.types import REASONS, Force, Guard, Policy, Timing

__all__ = [
    "REASONS",
    "Call",
    "Certificate",
    "Comparison",
    "DeckError",
    "FetchError",
    "Force",
    "GateError",
    "Guard",
    "JointConfig",
    "JointStep",
    "KernelError",
    "Model",
    "ModelError",
    "Policy",
    "PolicyError",
    "RiskLimit",
    "SAAError",
    "Spec",
    "Store",
    "StoreError",
    "StoredPolicy",
    "TextError",
    "Timing",
    "Trace",
    "TraceError",
    "TrainConfig",
    "TrainStep",
    "attach",
    "certify_policy",
    "compare",
    "detach",
    "export",
    "generate",
    "load",
    "load_policy",
    "measure",
    "open_engine",
    "run",
    "save_adapter",
    "save_gates",
    "save_policy",
    "train_gates",
    "train_joint",
]

_HOMES = {
    "attach.attach": "attach detach",
    "attach.save": "save_gates",
    "attention.call": "Call",
    "certify.certificate": "Certificate certify_policy",
    "certify.limits": "RiskLimit",
    "certify.policy_file": "StoredPolicy load_policy save_policy",
    "errors": "DeckError FetchError GateError KernelError ModelError PolicyError SAAError StoreError "
    "TextError TraceError",
    "export.engine": "open_engine",
    "export.export": "export",
    "loading": "load",
    "model": "Model Spec",
    "run.generate": "generate",
    "run.text": "run",
    "run.timing": "measure",
    "store": "Store",
    "trace.compare": "Comparison compare",
    "trace.trace": "Trace",
    "train.config": "JointConfig TrainConfig",
    "train.distil": "TrainStep train_gates",
    "train.joint": "JointStep save_adapter train_joint",
    "types": "REASONS Force Guard Policy Timing",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_RENAMED = {"Sla": "RiskLimit", "Promise": "Certificate", "choose_policy": "certify_policy"}


def __getattr__(name: str) -> Any:
    new = _RENAMED.get(name, name)
    if new not in _HOME:
        raise AttributeError(f"module 'saa_core' has no attribute {name!r}")
    if new != name:
        warnings.warn(f"saa_core.{name} is now saa_core.{new}", DeprecationWarning, stacklevel=2)
    found = getattr(importlib.import_module(f"saa_core.{_HOME[new]}"), new)
    globals()[new] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps the functions `attach` and `run` reachable: importing the submodule of that name would
    put the module in their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
