"""Many clients at once over HTTP, and texts that arrive at a rate; what came of them, and when."""

import http.client
import json
import queue
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 60.0


class Connection:
    """A connection that is kept open between requests, as clients do it."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host, self.port = str(parts.hostname), parts.port
        self._own: http.client.HTTPConnection | None = None

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        """Status and answer; one that was closed while it was idle is opened again."""
        content = json.dumps(body).encode()
        for again in (True, False):
            kept = self._own is not None
            own = self._own or http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
            self._own = own
            try:
                own.request("POST", path, content, {"Content-Type": "application/json"})
                response = own.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                self.close()
                if not (kept and again):
                    raise
        raise AssertionError("unreachable")

    def leave(self, path: str, body: object, after: float) -> None:
        """Sends a request and is gone before its answer."""
        content = json.dumps(body).encode()
        with socket.create_connection((self.host, self.port), timeout=PATIENCE) as own:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            )
            own.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            time.sleep(after)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None


def crowd(
    address: str,
    requests: Sequence[tuple[str, dict[str, Any]]],
    clients: int,
    seconds: float,
    aborted: float = 0.02,
    seed: int = 0,
) -> dict[str, Any]:
    """Clients that ask one request after the other, drawn from a list; a share of them leaves early.

    Returns:
        statuses by number, latencies in ms of what was answered, answers per second.
    """
    statuses, latencies, lock = Counter[str](), list[float](), threading.Lock()
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        draw, own = random.Random(f"crowd/{seed}/{number}"), Connection(address)
        while time.monotonic() < end:
            path, body = draw.choice(requests)
            if draw.random() < aborted:
                own.leave(path, body, draw.uniform(0.0, 0.05))
                found, spent = "left", None
            else:
                began = time.monotonic()
                try:
                    status, answer = own.post(path, body)
                    found, spent = str(status), 1000 * (time.monotonic() - began)
                    if status == 429:
                        time.sleep(0.05)
                    if status >= 500:
                        found += f" {answer[:120]!r}"
                except (OSError, http.client.HTTPException) as error:
                    found, spent = f"failed: {type(error).__name__}", None
            with lock:
                statuses[found] += 1
                if found == "200" and spent is not None:
                    latencies.append(spent)
        own.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.monotonic() - began
    return {"statuses": dict(statuses), **percentiles(latencies), "rate": len(latencies) / spent}


def at_rate(
    address: str,
    path: str,
    bodies: Sequence[dict[str, Any]],
    rate: float,
    seconds: float,
    seed: int,
) -> dict[str, float]:
    """Requests that arrive at random times at a mean rate; latencies from when each was due."""
    draw = random.Random(f"rate/{seed}/{rate}")
    arrivals, at = list[float](), 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        arrivals.append(at)
    waiting: queue.SimpleQueue[tuple[float, dict[str, Any]] | None] = queue.SimpleQueue()
    latencies, failed, lock = list[float](), 0, threading.Lock()
    began = time.monotonic()

    def work() -> None:
        nonlocal failed
        own = Connection(address)
        while (job := waiting.get()) is not None:
            due, body = job
            try:
                status, _ = own.post(path, body)
            except (OSError, http.client.HTTPException):
                status = 0
            with lock:
                if status == 200:
                    latencies.append(1000 * (time.monotonic() - began - due))
                else:
                    failed += 1
        own.close()

    threads = [threading.Thread(target=work) for _ in range(min(64, max(4, int(rate / 4))))]
    for thread in threads:
        thread.start()
    for due in arrivals:
        time.sleep(max(0.0, due - (time.monotonic() - began)))
        waiting.put((due, draw.choice(bodies)))
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    return {"rate": rate, "arrived": len(arrivals), "failed": failed, **percentiles(latencies)}


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in ms, and how many there are."""
    ordered = sorted(latencies) or [0.0]
    found = {
        f"p{p}_ms": ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))]
        for p in (50, 95, 99)
    }
    return {**found, "answered": len(latencies)}
