"""``--backend``: a command asks a backend in place of loading a model. Without PyTorch."""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saa_core.cli.options import policy_of
from saa_core.data.titles import FIRST, parts_of
from saa_core.errors import PolicyError
from saa_core.serve.client import BACKEND, Client
from saa_core.types import Policy, Prediction

if TYPE_CHECKING:
    from saa_core.trace.trace import Trace

LOCAL = ("gates", "dtype")
"""Options that only a model that is loaded here has."""


def backend_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--backend",
        metavar="URL",
        default=os.environ.get(BACKEND) or None,
        help=f"ask the backend there (saa serve) in place of loading a model here (default: {BACKEND}, or none)",
    )


def run_there(options: argparse.Namespace, text: str) -> "Trace":
    """The trace of a text that the backend ran.

    Raises:
        BackendError: it is away, or refuses.
        PolicyError: an option makes sense only for a model that is loaded here.
    """
    client = _client(options)
    if options.policy is not None:
        raise PolicyError(
            "--policy and --backend exclude each other: policy files lie where the model is"
        )
    if getattr(options, "cut", False):
        raise PolicyError(
            "--cut and --backend exclude each other: the backend refuses what is too long"
        )
    changed = policy_of(options, Policy())
    policy = None if options.dense else "default" if changed == Policy() else changed
    ran = client.run(_name(options), text, policy)
    if ran.facts.get("fallback"):
        print(f"backend: computed densely ({ran.facts['fallback']})")
    return ran.trace


def classify_there(options: argparse.Namespace, texts: Sequence[str]) -> list[Prediction]:
    """Labels by the backend; see :func:`run_there`."""
    client = _client(options)
    if options.policy is not None:
        raise PolicyError(
            "--policy and --backend exclude each other: policy files lie where the model is"
        )
    fields: dict[str, Any] = {}
    if options.tokens is not None:
        fields["tokens"] = options.tokens
    if options.margin is not None:
        fields["guard"] = (
            {"missed_mass": None, "margin": options.margin} if options.margin else None
        )
    return list(client.classify(_name(options), texts, fields or "default", cut=options.cut))


def _client(options: argparse.Namespace) -> Client:
    for name in LOCAL:
        if getattr(options, name, None) is not None:
            raise PolicyError(
                f"--{name} and --backend exclude each other: the model is loaded there"
            )
    return Client(options.backend)


def _name(options: argparse.Namespace) -> str:
    """The model as the backend calls it: by its title, unless the operator named it otherwise."""
    task, adapter = getattr(options, "task", None), getattr(options, "adapter", None)
    if options.model is None and task is None and adapter is None:
        return parts_of(FIRST).model if getattr(options, "dense", False) else FIRST
    model = options.model or "smollm2"
    return " + ".join(part for part in (model, adapter, task) if part)
