"""What stands before every route, as plain ASGI: who may come in, how much they may bring, and when they left.

Order: request id, Host, Origin, token, size and time of the body, then the route. Only liveness is open. The body is
read here, counted whether or not its length was said, so that no route sees more than the limit. Afterwards the
connection is watched, so that whoever leaves is noticed in every state. Nothing here knows a model.
"""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from saa_core.serve.access import Access
from saa_core.serve.jobs import ClientGoneError
from saa_core.serve.logs import frames
from saa_core.serve.service import Request, Service

LOG = logging.getLogger("saa.serve")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = ("/v2/health/live",)
"""Addresses that need no token."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
BODY_SECONDS = 60.0
"""In which a whole body has to arrive."""


class Door:
    """The application behind its checks."""

    def __init__(self, app: App, service: Service, access: Access) -> None:
        self.app, self.service, self.access = app, service, access
        self.inside = 0
        self.empty = asyncio.Event()
        self.empty.set()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        self.inside += 1
        self.empty.clear()
        try:
            await self._enter(scope, receive, send)
        finally:
            self.inside -= 1
            if not self.inside:
                self.empty.set()

    async def _enter(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        began = time.monotonic()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        given = headers.get("x-request-id", "")
        known = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request = Request(known, asyncio.Event())
        answer = _Answer(send, known)
        path: str = scope["path"]
        try:
            refusal = self._refused(path, headers, request)
            body = b"" if refusal else await self._body(headers, receive, answer)
            if refusal is not None:
                await answer.error(*refusal, close=True)
            elif body is not None:
                scope.setdefault("state", {})["request"] = request
                await self._watched(scope, body, receive, answer, request)
        except ClientGoneError:
            answer.status = answer.status or 499
        except Exception as error:  # a route's own errors are answered there; this one is a fault
            LOG.error(
                "a route failed",
                extra={
                    "saa": {"request": known, "error": type(error).__name__, "at": frames(error)}
                },
            )
            if not answer.status:
                await answer.error(
                    500, "internal error; the log has it under this request id", "internal"
                )
        finally:
            if path not in OPEN:
                about = {"request": known, "method": scope["method"], "path": _told(path)}
                about |= {
                    "status": answer.status or 499,
                    "ms": round(1000 * (time.monotonic() - began), 2),
                }
                about |= {"caller": request.caller.name}
                LOG.info("request", extra={"saa": about | request.facts})

    def _refused(
        self, path: str, headers: dict[str, str], request: Request
    ) -> tuple[int, str, str] | None:
        """Status, sentence and reason for whoever does not come in."""
        host = headers.get("host")
        if not self.access.knows_host(host):
            return 421, "this server does not go by that Host", "auth"
        if not self.access.knows_origin(headers.get("origin"), host):
            return 403, "pages of this Origin may not ask this server", "auth"
        if path in OPEN:
            return None
        caller = self.access.caller(headers.get("authorization"))
        if caller is None:
            self.service.metrics.rejected.labels("auth").inc()
            return 401, "a token is needed: Authorization: Bearer TOKEN", "auth"
        request.caller = caller
        if headers.get("content-encoding", "identity").lower() != "identity":
            return 415, "bodies are taken as they are, without Content-Encoding", "body"
        return None

    async def _body(
        self, headers: dict[str, str], receive: Receive, answer: "_Answer"
    ) -> bytes | None:
        """The whole body; None where it was refused, which was answered."""
        limits, parts, size = self.service.settings.limits, list[bytes](), 0
        said = headers.get("content-length", "0")
        too_large = (413, f"a body has {limits.body_bytes} bytes at most", "body")
        if said.isdigit() and int(said) > limits.body_bytes:
            await self._turned_away(answer, too_large)
            return None
        deadline = time.monotonic() + BODY_SECONDS
        while True:
            left = min(limits.idle_seconds, deadline - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                await self._turned_away(answer, (408, "the body did not arrive in time", "body"))
                return None
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limits.body_bytes:
                await self._turned_away(answer, too_large)
                return None
            if not message.get("more_body"):
                return b"".join(parts)

    async def _turned_away(self, answer: "_Answer", why: tuple[int, str, str]) -> None:
        self.service.metrics.rejected.labels("body").inc()
        await answer.error(*why, close=True)

    async def _watched(
        self,
        scope: MutableMapping[str, Any],
        body: bytes,
        receive: Receive,
        answer: "_Answer",
        request: Request,
    ) -> None:
        """The route, with the body that was read, while somebody looks whether the client is still there."""
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            request.gone.set()

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await request.gone.wait()
            return {"type": "http.disconnect"}

        watching = asyncio.create_task(watch())
        try:
            await self.app(scope, replay, answer)
        finally:
            watching.cancel()


class _Answer:
    """What goes out: with the request's id, and with a status for the log."""

    def __init__(self, send: Send, request: str) -> None:
        self.send, self.request, self.status = send, request, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            more = [(b"x-request-id", self.request.encode())]
            more += [(name, value) for name, value in HEADERS if name not in own]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self.send(message)

    async def error(self, status: int, message: str, reason: str, *, close: bool = False) -> None:
        """Answers with an error in OpenAI's form."""
        about = {"message": message, "type": reason, "param": None, "code": None}
        body = json.dumps({"error": about}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        headers += [(b"connection", b"close")] if close else []
        headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _told(path: str) -> str:
    """A path as a log may hold it: without what a stranger wrote into it."""
    known = re.match(r"/(v1|v2|saa/v1|metrics|docs|openapi\.json|classify)(/[a-z]+)*", path)
    return known.group()[:60] if known else "other"
