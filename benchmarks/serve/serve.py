"""Is the backend what docs/serving.md says? Load, people who leave, restarts, faults, hostile requests.

    python -m benchmarks.serve.serve --minutes 10       # writes benchmarks/results/serve.json

Each part is one point of the acceptance, run against ``saa serve`` as a process of its own with a shipped task and a
language model; the fault injection runs the same server in this process. ``--parts`` picks some of them.
"""

import argparse
import http.client
import json
import math
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

import saa_core as saa
from benchmarks.serve.crowd import Connection, at_rate, crowd
from benchmarks.serve.faults import inject
from benchmarks.serve.process import Process, serving, wait_until
from saa_core.data import fetch
from saa_core.files import write_json

RESULTS = Path(__file__).parent.parent / "results"
DRAIN = 300.0
"""Seconds that streams may take to end: it is asked whether all do, on whatever machine."""
STEP = 1.1
"""A rate is this many times the last one."""


class Bench:
    """What the parts share.

    Args:
        task: title of the model that labels; served as "labels".
        writer: title of the one that writes; served as "writer". None leaves out what needs one.
        seconds: of load.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.seconds = 60.0 * options.minutes
        novel = (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")
        words = novel.split()
        self.short = [" ".join(words[at : at + 12]) for at in range(500, 2500, 20)]
        self.long = [" ".join(words[at : at + 250]) for at in range(500, 3000, 250)]
        lines = ["[limits]", f"drain_seconds = {DRAIN:g}", f"request_seconds = {DRAIN:g}"]
        lines += ["[keep]", 'what = "figures"', f'folder = "{folder / "kept"}"']
        for name, title in (("labels", options.task), ("writer", options.writer)):
            lines += ["[[model]]", f'name = "{name}"', f'model = "{title}"'] if title else []
        lines += (
            ["[[model]]", 'name = "engine"', f'engine = "{options.engine}"']
            if options.engine
            else []
        )
        self.config = folder / "serve.toml"
        self.config.write_text("\n".join(lines) + "\n")

    def server(self) -> Any:
        """A fresh one with all models."""
        return serving(self.folder, "--config", str(self.config), "--device", "cpu")

    def labels(self, text: str | list[str], policy: object = "default") -> dict[str, Any]:
        return {"model": "labels", "input": text, "saa": {"policy": policy}}

    def stream(self, tokens: int) -> dict[str, Any]:
        return {
            "model": "writer",
            "prompt": "Once upon a time",
            "max_tokens": tokens,
            "stream": True,
        }


def load(bench: Bench) -> dict[str, Any]:
    """(b) A crowd of clients: only 200, 429 or the client's own leaving; memory and queue stay bounded."""
    requests = [("/v1/classify", bench.labels(text)) for text in (*bench.short, *bench.long)]
    memory, queued = list[int](), list[float]()
    with bench.server() as own:
        own.ask("/v1/classify", bench.labels(bench.long[0]))
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(1.0):
                memory.append(own.memory)
                queued.append(own.figure("saa_num_requests_waiting"))

        watching = threading.Thread(target=watch)
        watching.start()
        found = crowd(own.address, requests, bench.options.clients, bench.seconds)
        stop.set()
        watching.join()
        idle = wait_until(lambda: own.figure("saa_num_requests_running") == 0, 30)
    half = memory[len(memory) // 2 :] or [0]
    return found | {
        "clients": bench.options.clients,
        "seconds": bench.seconds,
        "only_expected": set(found["statuses"]) <= {"200", "429", "left"},
        "peak_bytes": max(memory, default=0),
        "second_half_growth": half[-1] / half[0] - 1 if half[0] else 0.0,
        "most_waiting": max(queued, default=0.0),
        "idle_afterwards": idle,
    }


def leaving(bench: Bench) -> dict[str, Any]:
    """(c) Raw sockets that close while streaming, waiting for an answer, queued: how long work goes on."""
    found: dict[str, Any] = {}
    with bench.server() as own:
        text, parts = bench.short[0], urlsplit(own.address)
        before = (
            own.ask("/v1/classify", bench.labels(text))[1].split(b'"usage"')[0].split(b'"data"')[1]
        )
        states: dict[str, tuple[str, dict[str, Any], float]] = {
            "waiting": ("/v1/classify", bench.labels(bench.long * 8), 0.02),
        }
        if bench.options.writer:
            states["streaming"] = ("/v1/completions", bench.stream(400), 1.0)
            states["queued"] = ("/v1/completions", bench.stream(400), 0.0)
        for state, (path, body, after) in states.items():
            holding = Connection(own.address) if state == "queued" else None
            others = list[threading.Thread]()
            if holding is not None:  # all places are taken, so that the next one waits
                others += [
                    threading.Thread(target=Connection(own.address).leave, args=(path, body, 2.0))
                    for _ in range(6)
                ]
                for thread in others:
                    thread.start()
                wait_until(lambda: own.figure("saa_num_requests_waiting") >= 1, 10)
            Connection(own.address).leave(path, body, after)
            for thread in others:
                thread.join()
            left = time.monotonic()
            stopped = wait_until(
                lambda: (
                    own.figure("saa_num_requests_running") + own.figure("saa_num_requests_waiting")
                    == 0
                ),
                30,
            )
            found[state] = {"stopped": stopped, "ms": 1000 * (time.monotonic() - left)}
        after_all = (
            own.ask("/v1/classify", bench.labels(text))[1].split(b'"usage"')[0].split(b'"data"')[1]
        )
        found["others_identical"] = after_all == before
        found["cancelled"] = own.figure("saa_requests_cancelled_total")
        assert parts.port
    return found


def ending(bench: Bench) -> dict[str, Any]:
    """(d) SIGTERM with open streams, kill -9, and how long it takes until the next one is ready."""
    found: dict[str, Any] = {}
    with bench.server() as own:
        found["ready_seconds"] = own.seconds
        if bench.options.writer:
            own.ask("/saa/v1/run", {"model": "writer", "text": bench.short[0]})
            answers = list[bytes]()

            def ask() -> None:
                try:
                    answers.append(own.ask("/v1/completions", bench.stream(12))[1])
                except (OSError, http.client.HTTPException):
                    answers.append(b"")  # it was cut off

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            wait_until(lambda: own.figure("saa_num_requests_running") >= 1, 30)
            own.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            found["streams_ended"] = sum(a.rstrip().endswith(b"data: [DONE]") for a in answers)
            found["streams"] = len(threads)
            found["exit_status"] = own.process.wait(60)
    with bench.server() as again:
        kept = again.ask("/saa/v1/traces")[1].count(b'"run"') if bench.options.writer else 0
        again.process.kill()
        again.process.wait(30)
    with bench.server() as last:
        found["ready_after_kill_seconds"] = last.seconds
        now = last.ask("/saa/v1/traces")[1].count(b'"run"') if bench.options.writer else 0
        found["kept_runs"] = {"before": kept, "after": now}
    if bench.options.engine:
        with serving(bench.folder, "--engine", bench.options.engine) as engine:
            found["engine_ready_seconds"] = engine.seconds
    return found


def batches(bench: Bench) -> dict[str, Any]:
    """(e) Answers that were computed together against the same ones alone: largest difference."""
    texts = [text for pair in zip(bench.short[:32], bench.long * 4, strict=False) for text in pair]
    with bench.server() as own:
        together = _probs(own, bench.labels(texts))
        alone = [_probs(own, bench.labels(text))[0] for text in texts]
    worst = max(
        abs(a - b)
        for one, other in zip(together, alone, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    return {"texts": len(texts), "largest_difference": worst, "equal": worst < 1e-4}


def rates(bench: Bench) -> dict[str, Any]:
    """(g) Rate that is held with p95 under 100 ms on short texts, SAA and dense in turn, and what HTTP costs."""
    seconds = min(20.0, max(1.0, bench.seconds / 20))
    found: dict[str, Any] = {"seconds_per_rate": seconds}
    with bench.server() as own:
        for model in ("labels", *(["engine"] if bench.options.engine else [])):
            found[model] = _held(bench, own.address, model, seconds)
        connection, spent = Connection(own.address), list[float]()
        for text in bench.short[:50]:
            began = time.perf_counter()
            connection.post("/v1/classify", bench.labels(text))
            spent.append(1000 * (time.perf_counter() - began))
        connection.close()
    model = saa.load(bench.options.task, device="cpu")
    direct = list[float]()
    from saa_core.run.classify import classify

    for text in bench.short[:50]:
        began = time.perf_counter()
        list(classify(model, [text]))
        direct.append(1000 * (time.perf_counter() - began))
    middle = [sorted(each)[len(each) // 2] for each in (spent, direct)]
    return found | {
        "p50_http_ms": middle[0],
        "p50_library_ms": middle[1],
        "overhead_ms": middle[0] - middle[1],
    }


def _held(bench: Bench, address: str, model: str, seconds: float) -> dict[str, Any]:
    """The highest rate that each side held, the sides in turn at each rate, and everything that was tried."""
    tried: dict[str, list[dict[str, float]]] = {"dense": [], "default": []}
    held, rate, going = dict.fromkeys(tried, 0.0), bench.options.start, set(tried)
    for turn in range(bench.options.rates):
        for side in tried if turn % 2 else list(tried)[::-1]:
            if side not in going:
                continue
            bodies = [{"model": model, "input": t, "saa": {"policy": side}} for t in bench.short]
            own = at_rate(address, "/v1/classify", bodies, rate, seconds, turn)
            tried[side].append(own)
            if own["answered"] and own["p95_ms"] <= 100 and not own["failed"]:
                held[side] = rate
            else:
                going.discard(side)
        rate *= STEP
    times = held["default"] / held["dense"] if held["dense"] else None
    return {"held": held, "times dense": times, "tried": tried}


def hostile(bench: Bench) -> dict[str, Any]:
    """(h) What has to be refused: statuses, and that the server still answers."""
    with bench.server() as own:
        port = urlsplit(own.address).port
        large = socket.create_connection(("127.0.0.1", port), timeout=60)
        large.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n"
        )
        found = {
            "100_mb": int(large.recv(64).split()[1]),
            "10000_texts": own.ask("/v1/classify", bench.labels(["a"] * 10_000))[0],
            "bad_utf8": own.ask("/v1/classify", b'{"model": "labels", "input": "\xc3\x28"}')[0],
            "path_id": own.ask("/saa/v1/traces/..%2f..%2fetc%2fpasswd")[0],
            "foreign_host": own.ask("/v1/models", headers={"Host": "evil.example"})[0],
            "foreign_origin": own.ask("/v1/models", headers={"Origin": "https://evil.example"})[0],
        }
        large.close()
        slow = socket.create_connection(("127.0.0.1", port), timeout=60)
        slow.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: local")
        began = time.monotonic()
        closed = slow.recv(64) == b""
        found_all = {
            **found,
            "slow_header_closed": closed,
            "slow_seconds": time.monotonic() - began,
        }
        found_all["refused"] = all(400 <= status < 500 for status in found.values())
        found_all["still_answers"] = own.ask("/v1/classify", bench.labels("Ok."))[0] == 200
    return found_all


def _probs(own: Process, body: dict[str, Any]) -> list[list[float]]:
    return [each["probs"] for each in json.loads(own.ask("/v1/classify", body)[1])["data"]]


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "load": load,
    "leaving": leaving,
    "ending": ending,
    "batches": batches,
    "faults": lambda bench: inject(bench.options.task, bench.short[:5]),
    "rates": rates,
    "hostile": hostile,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--task", default="minilm + sentences")
    parser.add_argument("--writer", default="smollm2", help='"" leaves out what needs one')
    parser.add_argument("--engine", help="folder that saa export wrote")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--start", type=float, default=10.0, help="texts per second to begin with")
    parser.add_argument("--rates", type=int, default=40, help="rates to try at most")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve.json")
    options = parser.parse_args(arguments)
    if not (math.isfinite(options.minutes) and options.minutes > 0):
        parser.error("--minutes must be a number above 0")
    found: dict[str, Any] = {"minutes": options.minutes, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory(prefix="saa-serve-") as folder:
        for name in options.parts:
            own = Path(folder) / name
            own.mkdir()
            found[name] = PARTS[name](Bench(options, own))
            write_json(options.out, found)
            print(f"{name}: {found[name]}", flush=True)


if __name__ == "__main__":
    main()
