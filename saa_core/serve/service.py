"""What the routes ask: resolves model and policy, admits, tokenizes, hands over to the model's thread, waits.

Knows no protocol. A caller's request ends in an answer, an SAAError, ``ClientGoneError`` or an exception.
"""

import asyncio
import importlib.metadata
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from saa_core.errors import ModelError, PolicyError, TextError
from saa_core.serve.access import ANYONE, Caller
from saa_core.serve.asked import policy_asked
from saa_core.serve.catalog import Catalog, Offered
from saa_core.serve.jobs import (
    Admission,
    ClientGoneError,
    RefusedError,
    Ticket,
    TimeLimitError,
    estimated_tokens,
)
from saa_core.serve.keeping import Kept
from saa_core.serve.metrics import Metrics
from saa_core.serve.settings import Settings
from saa_core.serve.work.parts import Cancelling, DamagedError, Work, in_parts
from saa_core.serve.work.scheduler import Scheduler
from saa_core.types import Policy, Prediction

if TYPE_CHECKING:
    from saa_core.run.execute import Executed
    from saa_core.serve.work.pytorch import Embedded
    from saa_core.serve.work.writing import Sampling, Written

LOG = logging.getLogger("saa.serve")
T = TypeVar("T")
GUARD_FACTS = ("bound", "estimate", "limit", "delta", "full_layers")


@dataclass
class Request:
    """Who asks, and what the log says about it.

    Args:
        gone: set when the client went away.
    """

    id: str
    gone: asyncio.Event
    caller: Caller = ANYONE
    facts: dict[str, Any] = field(default_factory=dict)


class Service:
    """All that is served, for the routes."""

    def __init__(
        self, settings: Settings, catalog: Catalog, metrics: Metrics, kept: Kept, device: str
    ) -> None:
        self.version, self.device = importlib.metadata.version("saa-core"), device
        self.settings, self.catalog, self.metrics, self.kept = settings, catalog, metrics, kept
        self.admission = Admission(settings.limits, metrics)
        self.scheduler = Scheduler(settings.limits, metrics, self.admission, _prepare(settings))
        self._reading = ThreadPoolExecutor(1, "saa-tokenizer")
        self._files = ThreadPoolExecutor(2, "saa-files")

    @property
    def ready(self) -> bool:
        """Takes requests."""
        return not self.admission.draining and self.scheduler.alive

    async def in_files(self, work: Callable[..., T], *given: Any) -> T:
        """Runs something that waits for a disk."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work, *given)

    def policy(self, offered: Offered, asked: object) -> Policy | None:
        """The policy that a request asks for, checked against its model.

        Raises:
            PolicyError: it is not known, not allowed, or not for this model.
        """
        found = policy_asked(asked, offered.policies, offered.first, self.settings.bounds)
        if found is not None:
            offered.runs.check(found)
        return found

    async def classify(
        self, request: Request, name: str, texts: Sequence[str], asked: object, *, cut: bool
    ) -> tuple[list[Prediction], Ticket]:
        """Labels of texts, in their order."""
        offered = self._of_kind(name, "task", "has no labels")
        policy = self.policy(offered, asked)
        async with self.admitted(request, name, "classify", texts) as ticket:
            ids = await self._tokens(ticket, lambda: offered.runs.encode(texts, cut=cut))
            self.submit(offered, ticket, policy, ids, self._batches(offered, "classify"))
            found: list[Prediction] = await ticket.result()
            if all(each.dense for each in found):
                ticket.side = "dense"
            for each in found:
                self.metrics.predicted_label(name, "classify", each)
                if policy is not None and each.dense and "fallback" not in ticket.facts:
                    why = "margin" if each.flops_share > 1 else "unprofitable"
                    self.metrics.fell_back(name, "classify", why)
            return found, ticket

    async def embed(
        self, request: Request, name: str, texts: Sequence[str], asked: object, *, cut: bool
    ) -> tuple[list["Embedded"], Ticket]:
        """Embeddings of texts, in their order."""
        offered = self._of_kind(name, "encoder", "gives no embeddings")
        policy = self.policy(offered, asked)
        async with self.admitted(request, name, "embed", texts) as ticket:
            ids = await self._tokens(ticket, lambda: offered.runs.encode(texts, cut=cut))
            self.submit(offered, ticket, policy, ids, self._batches(offered, "embed"))
            found: list[Embedded] = await ticket.result()
            if all(each.why_dense for each in found):
                ticket.side = "dense"
            for each in found:
                self.guarded(name, "embed", each.events)
                if each.why_dense is not None:
                    self.metrics.fell_back(name, "embed", each.why_dense)
            return found, ticket

    async def write(
        self,
        request: Request,
        name: str,
        prompt: "str | Sequence[Mapping[str, str]]",
        asked: object,
        sampling: "Sampling",
    ) -> AsyncIterator["Written | Ticket"]:
        """The ticket, once the request is admitted, then a continuation piece by piece."""
        from saa_core.serve.work.writing import writing

        op = "complete" if isinstance(prompt, str) else "chat"
        offered = self._of_kind(name, "writer", "does not write text")
        policy = self.policy(offered, asked)
        texts = [prompt] if isinstance(prompt, str) else [each["content"] for each in prompt]
        async with self.admitted(request, name, op, texts) as ticket:

            def encode() -> list[list[int]]:
                if isinstance(prompt, str):
                    return list(offered.runs.encode(texts, cut=False))
                return [offered.runs.encode_chat(prompt)]

            ids = await self._tokens(ticket, encode)
            if len(ids[0]) >= offered.runs.max_length:
                raise TextError(
                    f"the prompt fills the {offered.runs.max_length} tokens that the model takes"
                )

            def note(work: Work, found: "Executed", why: str | None) -> None:
                self.guarded(name, op, found.events, work.ticket)
                if why is not None:
                    work.ticket.side = "dense"
                    work.ticket.facts["fallback"] = why
                    self.metrics.fell_back(name, op, why)

            def steps(own: Policy | None) -> Any:
                before = (lambda: None) if own is None else self.sound(offered)
                return writing(offered.runs, own, sampling, note, before)

            self.submit(offered, ticket, policy, ids, steps, alone=True, stream=True)
            yield ticket
            last = None
            async for piece in ticket.events():
                now = time.monotonic()
                labels = (name, op, ticket.side)
                if last is None:
                    self.metrics.first_token.labels(*labels).observe(now - ticket.began)
                elif piece.tokens:
                    self.metrics.inter_token.labels(*labels).observe((now - last) / piece.tokens)
                last = now
                self.metrics.new_tokens.labels(name, op).inc(piece.tokens)
                yield piece

    @asynccontextmanager
    async def admitted(
        self, request: Request, name: str, op: str, texts: Sequence[str], tokens: int | None = None
    ) -> AsyncIterator[Ticket]:
        """A ticket for the time that it is worked on; counts how it ended.

        Raises:
            RefusedError, TextError: there is too much to do, or too much in this request.
        """
        limits = self.settings.limits
        if not 1 <= len(texts) <= limits.texts:
            raise TextError(f"a request has 1 to {limits.texts} texts; this one has {len(texts)}")
        estimate = sum(map(estimated_tokens, texts)) if tokens is None else tokens
        ticket = self.admission.admit(name, op, estimate, request.gone)
        ended = "error"
        try:
            yield ticket
            ended = "stop"
        except (ClientGoneError, asyncio.CancelledError, GeneratorExit):
            ended = "gone"
            self.metrics.cancelled.labels(name, op).inc()
            raise
        except TimeLimitError:
            self.metrics.errors.labels(name, op, "timeout").inc()
            raise
        except RefusedError:
            ended = "refused"
            raise
        except (PolicyError, TextError, ModelError):
            self.metrics.errors.labels(name, op, "request").inc()
            raise
        except Exception:
            self.metrics.errors.labels(name, op, "internal").inc()
            raise
        finally:
            self.admission.close(ticket)
            spent = time.monotonic() - ticket.began
            waited = (
                None if ticket.started is None else round(1000 * (ticket.started - ticket.began), 3)
            )
            request.facts |= {"model": name, "op": op, "side": ticket.side, "tokens": ticket.tokens}
            request.facts |= {"ended": ended, "queue_ms": waited, **ticket.facts}
            if ended == "stop":
                self.metrics.latency.labels(name, op, ticket.side).observe(spent)
                reason = ticket.facts.get("finish", "stop")
                self.metrics.success.labels(name, op, ticket.side, reason).inc()
                self.metrics.texts.labels(name, op).inc(len(texts))
                self.metrics.prompt_tokens.labels(name, op).inc(ticket.tokens)

    def submit(
        self,
        offered: Offered,
        ticket: Ticket,
        policy: Policy | None,
        ids: Sequence[Sequence[int]],
        steps: Callable[[Policy | None], Any],
        *,
        alone: bool = False,
        stream: bool = False,
        seconds: float | None = None,
    ) -> None:
        """Hands work over: sparse where it may be, and what answers in its place.

        Args:
            seconds: that a step may take, where it is not as for all.
        """
        sparse = policy is not None and offered.damaged is None
        ticket.facts["policy"] = "dense" if policy is None else str(policy)
        self.scheduler.submit(
            Work(
                ticket,
                dense=steps(None),
                sparse=steps(policy) if sparse else None,
                key=None
                if alone
                else (ticket.model, ticket.op, policy if sparse else None, policy is None),
                ids=ids,
                stream=stream,
                breaker=offered.breaker(policy) if sparse and policy is not None else None,
                why_dense="damaged" if policy is not None and not sparse else None,
                seconds=seconds,
            )
        )

    def guarded(
        self,
        name: str,
        op: str,
        events: Sequence[Mapping[str, Any]],
        ticket: Ticket | None = None,
    ) -> None:
        """Counts what a guard said, and notes what it found for the answer."""
        for event in events:
            suspected = str(event["suspected"])
            if suspected == "result":
                self.metrics.missed.labels(name, op, "served").observe(event["estimate"])
                self.metrics.missed_bound.labels(name, op).observe(event["bound"])
                if ticket is not None:
                    ticket.facts["guard"] = {key: event[key] for key in GUARD_FACTS}
                continue
            self.metrics.guard_events.labels(name, suspected, str(event.get("done"))).inc()
            if suspected == "input":
                self.metrics.far.labels(name, op).inc()
                if event.get("measured") is not None and event.get("limit"):
                    self.metrics.distance.labels(name, op).observe(
                        event["measured"] / event["limit"]
                    )

    def _of_kind(self, name: str, kind: str, lacks: str) -> Offered:
        offered = self.catalog.get(name)
        if offered.runs.kind != kind:
            fitting = [n for n, each in self.catalog.offered.items() if each.runs.kind == kind]
            raise PolicyError(
                f"model={name!r} {lacks}; models of this server that do: {', '.join(fitting) or 'none'}"
            )
        return offered

    async def _tokens(
        self, ticket: Ticket, encode: Callable[[], list[list[int]]]
    ) -> list[list[int]]:
        """Token ids, made in a thread of their own, within the limit of a request."""
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._reading, encode)
        total, limit = sum(map(len, ids)), self.settings.limits.tokens
        if total > limit:
            raise TextError(f"a request has {limit} tokens at most; this one has {total}")
        self.admission.counted(ticket, total)
        return ids

    def _batches(self, offered: Offered, op: str) -> Callable[[Policy | None], Any]:
        """Steps that compute texts of several requests together, by a policy."""
        compute = getattr(offered.runs, op)

        def made(policy: Policy | None) -> Any:
            def steps(works: Sequence[Work], stop: Cancelling) -> Any:
                if policy is not None:
                    self.sound(offered)()
                return in_parts(
                    works, self.settings.limits.batch, lambda ids: compute(ids, policy, stop)
                )

            return steps

        return made

    @staticmethod
    def sound(offered: Offered) -> Callable[[], None]:
        def check() -> None:
            if not offered.sound():
                raise DamagedError(offered.damaged or "")

        return check


def _prepare(settings: Settings) -> Callable[[], None]:
    """What each model thread begins with: PyTorch's threads are a setting of the thread."""
    pytorch = any(model.engine is None for model in settings.models)

    def prepare() -> None:
        if pytorch and settings.threads:
            import torch

            torch.set_num_threads(settings.threads)

    return prepare
