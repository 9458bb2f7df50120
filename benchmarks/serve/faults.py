"""(f) The sparse path raises, gives NaN, hangs: every answer has to be dense and right, and the breaker opens.

Runs the server in this process, so that its model can be broken while it serves.
"""

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

import saa_core as saa
from saa_core.run.classify import answers
from saa_core.serve.access import Access
from saa_core.serve.catalog import load_catalog
from saa_core.serve.server import background, build
from saa_core.serve.service import Service
from saa_core.serve.settings import Limits, ServedModel, Settings
from saa_core.serve.work import pytorch

FAULTS = ("raises", "not finite", "hangs")
TRIES = 5


def inject(title: str, texts: Sequence[str]) -> dict[str, Any]:
    """What came of each fault: whether answers were dense and right, the reasons, whether the breaker opened."""
    model = saa.load(title, side="sparse", device="cpu")
    found: dict[str, Any] = {}
    for fault in FAULTS:
        with _server(model) as (address, service):
            expected = answers(
                model.reference_model, service.catalog.get("labels").runs.encode(texts, cut=True)
            )
            with _broken(fault):
                replies = [_ask(address, list(texts)) for _ in range(TRIES)]
            probs = [[each["probs"] for each in reply["data"]] for reply in replies]
            close = [
                torch.allclose(torch.tensor(p), expected.probabilities, atol=1e-4) for p in probs
            ]
            found[fault] = {
                "right": sum(close),
                "answers": TRIES,
                "all_dense": all(each["saa"]["dense"] for r in replies for each in r["data"]),
                "reasons": [reply["saa"].get("fallback") for reply in replies],
                "breaker_open": service.catalog.get("labels").breaker_open,
            }
    return found


@contextmanager
def _broken(fault: str) -> Iterator[None]:
    """Breaks sparse passes of every model of this process."""
    real, forever = pytorch.answers, threading.Event()

    def broken(model: Any, ids: Any, policy: Any = None, **given: Any) -> Any:
        if policy is None:
            return real(model, ids, policy, **given)
        if fault == "raises":
            raise RuntimeError("a kernel failed")
        if fault == "hangs":
            forever.wait(60)
        found = real(model, ids, policy, **given)
        found.probabilities.fill_(torch.nan)
        return found

    module: Any = pytorch
    module.answers = broken
    try:
        yield
    finally:
        module.answers = real
        forever.set()


@contextmanager
def _server(model: Any) -> Iterator[tuple[str, Service]]:
    offered = ServedModel(name="labels", model="labels", untrained=True)
    settings = Settings(models=(offered,), limits=Limits(sparse_seconds=0.5))
    catalog = load_catalog(settings, loaded={"labels": model})
    access = Access({}, frozenset(["127.0.0.1"]), frozenset())
    server, service = build(settings, catalog, access)
    listening, ready = socket.create_server(("127.0.0.1", 0)), threading.Event()

    async def serve() -> None:
        async with background(service):
            ready.set()
            await server.serve([listening])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait(30)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", service
    finally:
        server.should_exit = True
        thread.join(30)


def _ask(address: str, texts: list[str]) -> dict[str, Any]:
    body = json.dumps({"model": "labels", "input": texts, "saa": {"cut": True}}).encode()
    request = urllib.request.Request(
        f"{address}/v1/classify", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        found: dict[str, Any] = json.load(response)
    return found
