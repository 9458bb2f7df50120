"""The app on a free loopback port, and the Chromium that visits it: for timings and for tests."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120
"""Seconds that the app may take until it answers."""


class Served(NamedTuple):
    address: str
    pid: int


@contextmanager
def serve(log: Path, root: Path = ROOT) -> Iterator[Served]:
    """Starts the app and says where it is; ends it afterwards.

    Args:
        root: the checkout whose app it is.

    Raises:
        RuntimeError: it ended or did not answer in time; the end of its log is in the message.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(port)]
    with log.open("w") as out:
        own = {} if root == ROOT else {"PYTHONPATH": str(root)}
        server = subprocess.Popen(
            command, cwd=root, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **own}
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(f"{address}/_stcore/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the app did not answer: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield Served(address, server.pid)
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def settle(page: Any) -> None:
    """Waits until the script of the page is not running."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
