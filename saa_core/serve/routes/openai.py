"""OpenAI's addresses, and vLLM's for labels: existing clients work as they are.

SAA's facts stand in a field ``saa`` of each answer; what a request asks of SAA comes in one of the same name.
"""

import base64
import json
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from saa_core.errors import PolicyError
from saa_core.serve.jobs import ClientGoneError, Ticket
from saa_core.serve.routes.errors import body_of
from saa_core.serve.routes.shapes import (
    ChatCompletion,
    Classification,
    Completion,
    Embedding,
    Generation,
)
from saa_core.serve.service import Request as Asking
from saa_core.serve.service import Service

DEFAULT_TOKENS = 16
"""Tokens that a completion writes where the request says nothing, as OpenAI's."""
TOLD = ("policy", "fallback", "batch", "compute_ms", "guard")


def routes(service: Service) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["OpenAI"])

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [_model(service, name) for name in service.catalog.offered],
        }

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.catalog.get(name)
        return _model(service, name)

    @router.post("/v1/completions", response_model=None)
    async def complete(body: Completion, request: Request) -> Response | dict[str, Any]:
        prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        return await _written(service, request, body, prompt, body.max_tokens or DEFAULT_TOKENS)

    @router.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatCompletion, request: Request) -> Response | dict[str, Any]:
        most = body.max_completion_tokens or body.max_tokens or service.settings.limits.new_tokens
        messages = [
            {"role": "system" if m.role == "developer" else m.role, "content": m.text}
            for m in body.messages
        ]
        return await _written(service, request, body, messages, most)

    @router.post("/v1/embeddings")
    async def embed(body: Embedding, request: Request) -> dict[str, Any]:
        asking, own = asking_of(request), body.saa
        found, ticket = await service.embed(asking, body.model, body.texts, own.policy, cut=own.cut)
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": _vector(each.vector, body.encoding_format),
            }
            for at, each in enumerate(found)
        ]
        usage = {"prompt_tokens": ticket.tokens, "total_tokens": ticket.tokens}
        return {"object": "list", "data": data, "model": body.model, "usage": usage} | told(ticket)

    async def classify(body: Classification, request: Request) -> dict[str, Any]:
        asking, own = asking_of(request), body.saa
        found, ticket = await service.classify(
            asking, body.model, body.texts, own.policy, cut=own.cut
        )
        data = [
            {
                "index": at,
                "label": each.label,
                "probs": list(each.probabilities.values()),
                "num_classes": len(each.probabilities),
                "saa": {
                    "dense": each.dense,
                    "tokens": each.tokens,
                    "token_share": each.token_share,
                    "flops_share": each.flops_share,
                },
            }
            for at, each in enumerate(found)
        ]
        head = {"id": f"classify-{asking.id}", "object": "list", "created": int(time.time())}
        labels = list(service.catalog.get(body.model).runs.labels)
        return (
            head
            | {"model": body.model, "data": data, "usage": _usage(ticket.tokens, 0)}
            | told(ticket, labels=labels)
        )

    router.add_api_route("/v1/classify", classify, methods=["POST"])
    router.add_api_route("/classify", classify, methods=["POST"], include_in_schema=False)
    return router


def asking_of(request: Request) -> Asking:
    """Who asks, as the door found out."""
    found: Asking = request.state.request
    return found


def told(ticket: Ticket, **more: Any) -> dict[str, Any]:
    """SAA's facts about an answer."""
    facts = {name: ticket.facts[name] for name in TOLD if name in ticket.facts}
    waited = None if ticket.started is None else round(1000 * (ticket.started - ticket.began), 3)
    return {"saa": {"side": ticket.side, **facts, "queue_ms": waited, **more}}


def _model(service: Service, name: str) -> dict[str, Any]:
    offered = service.catalog.get(name)
    runs = offered.runs
    own = {
        "title": runs.title,
        "kind": runs.kind,
        "gate": runs.gate,
        "labels": list(runs.labels),
        "max_tokens": runs.max_length,
        "policies": {key: "dense" if p is None else str(p) for key, p in offered.policies.items()},
        "first": offered.first,
        "damaged": offered.damaged,
        "breaker_open": offered.breaker_open,
    }
    return {"id": name, "object": "model", "created": 0, "owned_by": "saa", "saa": own}


def _vector(values: tuple[float, ...], form: str) -> list[float] | str:
    if form == "float":
        return list(values)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


async def _written(
    service: Service, request: Request, body: Generation, prompt: Any, most: int
) -> Response | dict[str, Any]:
    """A continuation, whole or as a stream of events."""
    from saa_core.serve.work.writing import Sampling

    limit = service.settings.limits.new_tokens
    if most > limit:
        raise PolicyError(f"max_tokens={most} is more than the {limit} that this server writes")
    stop = (
        ()
        if body.stop is None
        else (body.stop,)
        if isinstance(body.stop, str)
        else tuple(body.stop)
    )
    sampling = Sampling(
        most=most,
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=tuple(each for each in stop if each),
    )
    asking = asking_of(request)
    steps = service.write(asking, body.model, prompt, body.saa.policy, sampling)
    form = _Form(asking.id, body.model, isinstance(prompt, list))
    if body.stream:
        ticket = await anext(steps)  # what is refused is refused before the stream begins
        assert isinstance(ticket, Ticket)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(
            _events(form, ticket, steps, usage), media_type="text/event-stream"
        )
    text, written, ended = "", 0, "stop"
    own: Ticket | None = None
    async for piece in steps:
        if isinstance(piece, Ticket):
            own = piece
            continue
        text, written, ended = text + piece.text, written + piece.tokens, piece.ended or ended
        if own is not None and piece.ended:
            own.facts["finish"] = piece.ended
    assert own is not None
    return form.whole(text, ended) | {"usage": _usage(own.tokens, written)} | told(own)


async def _events(
    form: "_Form", ticket: Ticket, steps: AsyncIterator[Any], include_usage: bool
) -> AsyncIterator[bytes]:
    """Server-sent events; an error in the middle is one of them, and the last."""
    written = 0
    try:
        if form.chat:
            yield _event(form.chunk("", None, first=True))
        async for piece in steps:
            written += piece.tokens
            if piece.ended:
                ticket.facts["finish"] = piece.ended
            if piece.text:
                yield _event(form.chunk(piece.text, None))
            if piece.ended:
                yield _event(form.chunk("", piece.ended) | told(ticket))
        if include_usage:
            usage = {"choices": [], "usage": _usage(ticket.tokens, written)}
            yield _event(form.head(stream=True) | usage)
        yield b"data: [DONE]\n\n"
    except ClientGoneError:
        return
    except Exception as error:  # the status is out: the client learns it in the stream
        yield _event(body_of(error))
    finally:
        await steps.aclose()  # type: ignore[attr-defined]


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


class _Form:
    """How the two kinds of completion are written."""

    def __init__(self, request: str, model: str, chat: bool) -> None:
        self.chat, self.model = chat, model
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{request}"
        self.created = int(time.time())

    def head(self, *, stream: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if stream else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def whole(self, text: str, ended: str) -> dict[str, Any]:
        own: dict[str, Any] = {"index": 0, "finish_reason": ended, "logprobs": None}
        own |= {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return self.head(stream=False) | {"choices": [own]}

    def chunk(self, text: str, ended: str | None, *, first: bool = False) -> dict[str, Any]:
        own: dict[str, Any] = {"index": 0, "finish_reason": ended, "logprobs": None}
        if self.chat:
            delta: dict[str, Any] = {"content": text} if text or first else {}
            own["delta"] = {"role": "assistant"} | delta if first else delta
        else:
            own["text"] = text
        return self.head(stream=True) | {"choices": [own]}
