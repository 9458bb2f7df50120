"""A server in this process, on a free loopback port, and what its tests ask it with."""

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from saa_core.serve.access import Access, read_access
from saa_core.serve.catalog import Catalog, load_catalog
from saa_core.serve.server import Server, background, build
from saa_core.serve.service import Service
from saa_core.serve.settings import Settings


@dataclass
class Answer:
    """What came: status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server that listens."""

    port: int
    service: Service
    server: Server
    loop: asyncio.AbstractEventLoop
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
        """One request; JSON unless the body is bytes."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        own = {"Content-Type": "application/json", **self.headers}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, content, own, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return Answer(response.status, _lower(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers), error.read())

    def send(self, path: str, body: Any, *, length: int | None = None) -> socket.socket:
        """A raw connection on which a request was written; nothing is read."""
        content = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
        connection.sendall(head.encode() + content)
        return connection

    def figure(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for family in self.service.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def settle(self, seconds: float = 30.0) -> None:
        """Waits until nothing is in the process."""
        wait_for(lambda: self.service.admission.requests == 0, seconds)


@contextmanager
def running(
    settings: Settings, loaded: Mapping[str, Any], catalog: Catalog | None = None
) -> Iterator[Running]:
    """Serves models that are loaded already."""
    access: Access = read_access(settings)
    found = load_catalog(settings, loaded=loaded) if catalog is None else catalog
    server, service = build(settings, found, access)
    listening = socket.create_server(("127.0.0.1", 0))
    started, loops = threading.Event(), list[asyncio.AbstractEventLoop]()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with background(service):
            started.set()
            await server.serve([listening])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield Running(listening.getsockname()[1], service, server, loops[0])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_for(holds: Any, seconds: float = 30.0) -> None:
    """Waits until something holds; fails where it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
