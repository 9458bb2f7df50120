"""``saa serve`` as a process of its own, on a free loopback port: for measurements and for tests."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from saa_core.cli.main import main; sys.exit(main())"
PATIENCE = 180.0
"""Seconds that it may take until it is ready."""


class Process:
    """A running server, and its log.

    Raises:
        RuntimeError: it ended, or was not ready in time; the end of its log is in the message.
    """

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.log = folder / "log.txt"
        self.log.touch()
        self._before = len(self.lines)
        command = [sys.executable, "-c", COMMAND, "serve", "--port", "0", *options]
        began = time.monotonic()
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stderr=out, stdout=out, env={**os.environ, **environment}
            )
        wait_until(lambda: self.ready is not None or self.process.poll() is not None, PATIENCE)
        if self.ready is None:
            raise RuntimeError(f"the server ended: {self.log.read_text()[-3000:]}")
        self.seconds = time.monotonic() - began
        self.address: str = self.ready["address"]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        found = self.log.read_text().splitlines()
        return [json.loads(line) for line in found if line.startswith("{") and line.endswith("}")]

    @property
    def ready(self) -> dict[str, Any] | None:
        """The line that says where it listens."""
        own = self.lines[self._before :]
        return next((line for line in own if line["event"] == "ready"), None)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def ask(
        self, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one request."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        own = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.address + path, content, own)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def figure(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.ask("/metrics")[1].decode().splitlines()
        own = (line for line in lines if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rpartition(" ")[2]) for line in own)


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[Process]:
    """A server that is killed at the end, if it still runs."""
    found = Process(folder, *options, **environment)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait(30)


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Waits until something holds; False where it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
