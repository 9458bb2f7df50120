"""The process: loads the list, listens, and ends in an orderly way.

SIGTERM: readiness says no, new requests are refused, what runs gets ``drain_seconds`` to end, then the process
ends. A second signal ends it at once. uvicorn itself would tell streams at once that their client left, so it is
told to stop only when nobody is inside.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from saa_core.serve.access import Access, read_access
from saa_core.serve.catalog import Catalog, load_catalog
from saa_core.serve.keeping import EVERY, Kept
from saa_core.serve.logs import frames, start_logging
from saa_core.serve.metrics import Metrics
from saa_core.serve.routes.app import make_app
from saa_core.serve.routes.door import Door
from saa_core.serve.service import Service
from saa_core.serve.settings import Settings

LOG = logging.getLogger("saa.serve")
KEEP_ALIVE = 30
"""Seconds that a connection may be idle between two requests."""
HEADER_BYTES = 32 * 1024
GRACE = 5
"""Seconds for connections to close after the last answer."""


class Protocol(H11Protocol):
    """HTTP/1.1 whose requests have to arrive in time: a header that trickles in closes the connection."""

    idle_seconds = 10.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._idle and self._waiting is None:
            self._wait()  # a request has begun
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.scope
        super().handle_events()
        if self.scope is not before:  # its header is complete
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.idle_seconds, self._late)

    def _rest(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _late(self) -> None:
        self._waiting = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, drained before it is stopped.

    Args:
        service: is told to refuse new requests.
        door: says when nobody is inside.
    """

    def __init__(self, config: uvicorn.Config, service: Service, door: Door) -> None:
        super().__init__(config)
        self.service, self.door = service, door
        self._draining: asyncio.Task[None] | None = None
        self._signals = 0
        self.about: dict[str, Any] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says so."""
        await super().startup(sockets=sockets)
        LOG.info("ready", extra={"saa": self.about})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            LOG.warning("second signal: ending at once")
            os._exit(128 + sig)
        asyncio.get_running_loop().call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Begins to end."""
        if self._draining is None:
            self.service.admission.draining = True
            LOG.info("draining", extra={"saa": {"inside": self.door.inside}})
            self._draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        limit = self.service.settings.limits.drain_seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.door.empty.wait(), limit)
        if self.door.inside:
            LOG.warning("drain limit passed", extra={"saa": {"inside": self.door.inside}})
        self.should_exit = True


def build(
    settings: Settings, catalog: Catalog, access: Access, device: str = "cpu"
) -> tuple[Server, Service]:
    """A server that is not listening yet."""
    metrics = Metrics(catalog.offered, device)
    for name, offered in catalog.offered.items():
        own = offered.policies[offered.first]
        metrics.build(name, offered.runs.gate, "dense" if own is None else str(own))
    service = Service(settings, catalog, metrics, Kept(settings.keep, metrics), device)
    door = make_app(service, access)
    limits = settings.limits
    protocol = type("Protocol", (Protocol,), {"idle_seconds": limits.idle_seconds})
    config = uvicorn.Config(
        door,
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=HEADER_BYTES,
        backlog=limits.connections,
    )
    return Server(config, service, door), service


@contextlib.asynccontextmanager
async def background(service: Service) -> AsyncIterator[None]:
    """The model's thread, and what looks for kept runs that have expired."""
    service.scheduler.start()
    expiring = asyncio.create_task(_expire(service))
    try:
        yield
    finally:
        expiring.cancel()
        service.scheduler.stop()


async def _expire(service: Service) -> None:
    while True:
        try:
            await service.in_files(service.kept.expire)
        except Exception as error:  # a full disk must not end what deletes
            LOG.error(
                "expiry failed", extra={"saa": {"error": type(error).__name__, "at": frames(error)}}
            )
        await asyncio.sleep(EVERY)


def serve(settings: Settings) -> int:
    """Loads, listens and serves until a signal; the exit status.

    Raises:
        SAAError: a model, a policy or a setting cannot be used.
    """
    start_logging()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing that was not fetched before is served
    access, began = read_access(settings), time.monotonic()
    sock = _listen(settings)

    def loading(name: str) -> None:
        LOG.info("loading", extra={"saa": {"model": name}})

    catalog = load_catalog(settings, loading)
    server, service = build(settings, catalog, access, _device(catalog))
    port = sock.getsockname()[1]
    about: dict[str, Any] = {
        "address": f"http://{settings.host}:{port}",
        "models": list(catalog.offered),
    }
    about |= {
        "start_seconds": round(time.monotonic() - began, 2),
        "token_needed": bool(access.tokens),
    }

    server.about = about

    async def run() -> None:
        async with background(service):
            await server.serve([sock])

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())
    return 0


def _listen(settings: Settings) -> socket.socket:
    """The address, taken before models are loaded, so that one that is in use is said at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as error:
        from saa_core.errors import PolicyError

        raise PolicyError(
            f"host={settings.host!r}, port={settings.port}: cannot listen there: {error.strerror or error}"
        ) from error
    return sock


def _device(catalog: Catalog) -> str:
    """Where models compute."""
    for offered in catalog.offered.values():
        if hasattr(offered.runs, "model"):
            return str(offered.runs.model.device)
    return "cpu"
