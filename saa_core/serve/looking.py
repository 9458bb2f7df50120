"""What is asked for to be looked at: recorded runs, comparisons, times, trade-offs, effects. One text each.

Only a run is answered densely where the sparse path fails; the others show the sparse path itself, and a failure of
it is an error.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from saa_core.errors import ModelError, PolicyError, TextError
from saa_core.serve.catalog import Offered
from saa_core.serve.jobs import RefusedError, Ticket, estimated_tokens
from saa_core.serve.service import Request, Service
from saa_core.types import Policy

if TYPE_CHECKING:
    from saa_core.explain.effects import Effect
    from saa_core.explain.tradeoff import Point
    from saa_core.model import Model
    from saa_core.serve.work.recording import Sides
    from saa_core.trace.trace import Trace
    from saa_core.types import Timing

MOST_ROUNDS, MOST_LENGTHS = 15, 8
"""Of one request for times."""


async def run(
    service: Service, request: Request, name: str, text: str, asked: object, *, full: bool
) -> tuple["Trace", str | None, Ticket]:
    """A recorded run, under which id it is kept if it is, and how it went."""
    from saa_core.serve.work.recording import recording

    offered, model = _pytorch(service, name)
    policy = service.policy(offered, asked)
    async with service.admitted(request, name, "run", [text]) as ticket:

        def steps(own: Policy | None) -> Any:
            before = (lambda: None) if own is None else service.sound(offered)
            return recording(model, text, own, "full" if full else "summary", before)

        seconds = service.settings.limits.request_seconds  # recording takes as long as it takes
        service.submit(offered, ticket, policy, (), steps, alone=True, seconds=seconds)
        trace: Trace = await ticket.result()
        service.admission.counted(ticket, trace.keys)
        service.guarded(name, "run", trace.events, ticket)
        if trace.policy is not None:
            service.metrics.density.labels(name, "run").observe(float(trace.density.mean()))
            service.metrics.predicted.labels(name, "run").observe(
                float(trace.predicted_mass.mean())
            )
        kept = await service.in_files(service.kept.add, trace, request.caller)
        return trace, kept, ticket


async def compare(
    service: Service,
    request: Request,
    name: str,
    text: str,
    asked: object,
    damage: str | None = None,
) -> tuple["Sides", Ticket]:
    """One text densely and under a policy, by gates that may be damaged on purpose in a copy."""
    from saa_core.explain.damage import KINDS
    from saa_core.serve.work.recording import comparing

    offered, model = _pytorch(service, name)
    if damage is not None and damage not in KINDS:
        raise PolicyError(f"damage={damage!r} is not known; choose one of: {', '.join(KINDS)}")
    policy = _decided(service, offered, asked)
    steps = comparing(model, _original(service, offered), text, policy, damage)
    found, ticket = await _alone(service, request, name, "compare", text, policy, steps)
    return found, ticket


async def measure(
    service: Service,
    request: Request,
    name: str,
    lengths: Sequence[int],
    asked: object,
    repeats: int,
    text: str | None,
) -> tuple[list["Timing"], Ticket]:
    """Dense and a policy in turn: at lengths of a novel, or on a text as it is."""
    from saa_core.data import fetch
    from saa_core.run.timing import TEXT
    from saa_core.serve.work.recording import timing

    offered, model = _pytorch(service, name)
    if not 1 <= repeats <= MOST_ROUNDS or len(lengths) > MOST_LENGTHS:
        raise PolicyError(f"{MOST_ROUNDS} repeats and {MOST_LENGTHS} lengths are the most")
    if not lengths and text is None:
        raise PolicyError("lengths is empty; give one at least, or a text")
    longest = min(model.max_length, service.settings.limits.tokens)
    for length in lengths:
        if not 1 <= length <= longest:
            raise PolicyError(f"lengths holds {length!r}; 1 to {longest} tokens can be timed here")
    policy = _decided(service, offered, asked)
    if lengths:
        source = (fetch.assets() / TEXT).read_text(encoding="utf-8") if text is None else text
        ids = (
            offered.runs.encode([source[:200_000]], cut=True)[0]
            if model.task
            else model.tokenize(source)
        )
        if not ids:
            raise TextError("text has no tokens")
        parts = [(ids * (length // len(ids) + 1))[:length] for length in lengths]
    else:
        parts = offered.runs.encode([text], cut=False)
    steps = timing(model, parts, policy, repeats)
    tokens = sum(map(len, parts))
    return await _alone(service, request, name, "measure", "", policy, steps, tokens)


async def sweep(
    service: Service, request: Request, name: str, text: str, asked: object
) -> tuple[list["Point"], Ticket]:
    """The trade-off of a text: every mass from sparse to nearly dense."""
    from saa_core.serve.work.recording import sweeping

    offered, model = _pytorch(service, name)
    policy = _decided(service, offered, asked)
    steps = sweeping(model, _original(service, offered), text, policy)
    return await _alone(service, request, name, "tradeoff", text, policy, steps)


async def effects(
    service: Service,
    request: Request,
    name: str,
    text: str,
    asked: object,
    layer: int,
    head: int | None,
) -> tuple[list["Effect"], Ticket]:
    """What leaving out each block of a layer does."""
    from saa_core.serve.work.recording import leaving_out

    offered, model = _pytorch(service, name)
    policy = _decided(service, offered, asked)
    if not 0 <= layer < len(model.gates):
        raise PolicyError(f"layer={layer!r}: choose from 0 to {len(model.gates) - 1}")
    heads = model.gates[layer].config.heads
    if head is not None and not 0 <= head < heads:
        raise PolicyError(f"head={head!r}: choose from 0 to {heads - 1}")
    steps = leaving_out(model, text, policy, layer, head)
    return await _alone(service, request, name, "effects", text, policy, steps)


async def _alone(
    service: Service,
    request: Request,
    name: str,
    op: str,
    text: str,
    policy: Policy,
    steps: Callable[..., Any],
    tokens: int | None = None,
) -> tuple[Any, Ticket]:
    """One piece of work with nothing in its place."""
    tokens = estimated_tokens(text) if tokens is None else tokens
    async with service.admitted(request, name, op, [text], tokens) as ticket:
        ticket.side = "sparse"
        offered, seconds = service.catalog.get(name), service.settings.limits.request_seconds
        maker = partial(_same, steps)
        service.submit(offered, ticket, None, (), maker, alone=True, stream=True, seconds=seconds)
        ticket.facts["policy"] = str(policy)
        return await ticket.result(), ticket


def _same(steps: Any, _policy: Policy | None) -> Any:
    return steps


def _pytorch(service: Service, name: str) -> "tuple[Offered, Model]":
    """A model that PyTorch runs.

    Raises:
        ModelError: it is an exported one, in which nothing can be looked at.
    """
    offered = service.catalog.get(name)
    model: Model | None = getattr(offered.runs, "model", None)
    if model is None:
        raise ModelError(
            f"model={name!r} is an exported one, which records nothing; use /v1/classify"
        )
    return offered, model


def _decided(service: Service, offered: Offered, asked: object) -> Policy:
    """A policy that decides every text.

    Raises:
        PolicyError: it is dense.
        RefusedError: the gates are damaged, so that there is nothing to show.
    """
    policy = service.policy(offered, asked)
    if policy is None:
        raise PolicyError("saa.policy is dense; name one to compare with dense")
    if offered.damaged is not None:
        raise RefusedError(f"the gates are not used: {offered.damaged}", "damaged", 503, None)
    return policy.decided()


def _original(service: Service, offered: Offered) -> "Model":
    """What a result is compared with: the model without an adapter where that one is served as well, of a
    task its reference model."""
    model: Model = offered.runs.model
    if model.task is not None:
        return model.reference_model
    if model.spec.adapter is not None:
        for other in service.catalog.offered.values():
            if other.runs.title == model.spec.name and hasattr(other.runs, "model"):
                original: Model = other.runs.model
                return original
    return model
