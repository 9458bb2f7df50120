"""Sparse Adaptive Attention: a learned gate decides which token pairs a Transformer computes.

model = saa_core.load("smollm2")
trace = saa_core.run(model, "Some text.", saa_core.Policy(mass=0.95))
"""

from saa_core.attach import Model, Spec, attach, detach, load, save_gates
from saa_core.attention import Call
from saa_core.certify.certificate import Promise, choose_policy
from saa_core.certify.limits import Sla
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
from saa_core.run.text import generate, run
from saa_core.run.timing import measure
from saa_core.store import Store
from saa_core.trace.trace import Comparison, Trace, compare
from saa_core.train.distil import TrainConfig, TrainStep, train_gates
from saa_core.train.joint import JointConfig, JointStep, save_adapter, train_joint
from saa_core.types import REASONS, Force, Guard, Policy, Timing

__all__ = [
    "REASONS",
    "Call",
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
    "Promise",
    "SAAError",
    "Sla",
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
    "choose_policy",
    "compare",
    "detach",
    "generate",
    "load",
    "load_policy",
    "measure",
    "run",
    "save_adapter",
    "save_gates",
    "save_policy",
    "train_gates",
    "train_joint",
]
