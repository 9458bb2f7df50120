"""A backend from the other side: its models, labels, continuations, recorded runs, comparisons, times.

Needs neither a web framework nor PyTorch; a trace that comes is the same Trace as one that was recorded here, but
for the language model's head, which stays where the model is. Threads may share a client: each call has a
connection of its own, and closing it stops the work at the backend.
"""

import http.client
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from saa_core.errors import PolicyError, SAAError, TextError
from saa_core.types import Policy, Prediction, Timing

if TYPE_CHECKING:
    from saa_core.trace.trace import Trace

BACKEND, BACKEND_TOKEN = "SAA_BACKEND", "SAA_BACKEND_TOKEN"
"""Settings: where the backend is, and the token for it."""
TRACE, PAIR = "application/vnd.saa.trace", "application/vnd.saa.traces+zip"
FACTS = "x-saa-facts"
MOST_BYTES = 1 << 30
"""Of one answer."""
Asked = Policy | Mapping[str, Any] | str
"""A policy, fields that replace those of the model's own, or the name of one; None stands for dense."""


class BackendError(SAAError):
    """The backend cannot be reached, refuses, or failed; a sentence for whoever asked.

    Args:
        status: of HTTP; None where nothing came.
        retry_after: seconds after which asking again may help.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class ServedRun:
    """A recorded run, what the backend says about it, and its id there if it is kept."""

    trace: "Trace"
    facts: Mapping[str, Any]
    kept: str | None


@dataclass(frozen=True)
class ServedSides:
    """A dense run and one under a policy, and what differs, in plain numbers."""

    dense: "Trace"
    trace: "Trace"
    figures: Mapping[str, Any]


class Client:
    """Asks one backend.

    Args:
        address: "http://name:port", with a path in front where a proxy has one.
        token: sent with each request; the setting SAA_BACKEND_TOKEN by default.
        timeout: seconds without a byte.

    Raises:
        PolicyError: the address is none.
    """

    def __init__(self, address: str, token: str | None = None, timeout: float = 300.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PolicyError(
                f'backend={address!r} must be an address such as "http://127.0.0.1:8601"'
            )
        self.address, self.timeout = address.rstrip("/"), timeout
        self._parts, self._base = parts, parts.path.rstrip("/")
        self._token = os.environ.get(BACKEND_TOKEN) if token is None else token

    def status(self) -> dict[str, Any]:
        """Device, version, what waits, limits."""
        return self._json("GET", "/saa/v1/status")

    def models(self) -> dict[str, dict[str, Any]]:
        """What is served, by the name for requests: title, kind, labels, policies, whether its breaker is open."""
        return {each["id"]: each["saa"] for each in self._json("GET", "/v1/models")["data"]}

    def run(
        self,
        model: str,
        text: str,
        policy: Asked | None = "default",
        *,
        record: str = "full",
    ) -> ServedRun:
        """Runs a text there and brings the trace here.

        Args:
            policy: a policy, the name of one, or None for dense.
        """
        body = {"model": model, "text": text, "record": record, "saa": _saa(policy)}
        content, headers = self._send("POST", "/saa/v1/run", body, TRACE)
        facts = json.loads(headers.get(FACTS, "{}"))
        return ServedRun(_trace(content), facts, facts.get("run"))

    def compare(
        self,
        model: str,
        text: str,
        policy: Asked = "default",
        *,
        damage: str | None = None,
    ) -> ServedSides:
        """Runs a text densely and under a policy, by gates that may be damaged in a copy."""
        body = {"model": model, "text": text, "damage": damage, "saa": _saa(policy)}
        content, _ = self._send("POST", "/saa/v1/compare", body, PAIR)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            dense, trace = (_trace(archive.read(f"{name}.saa")) for name in ("dense", "trace"))
            return ServedSides(dense, trace, json.loads(archive.read("figures.json")))

    def measure(
        self,
        model: str,
        lengths: Sequence[int] = (),
        policy: Asked = "default",
        *,
        text: str | None = None,
        repeats: int = 5,
    ) -> list[Timing]:
        """Times dense and a policy in turn, where the model is; two Timings for each length."""
        body: dict[str, Any] = {"model": model, "lengths": list(lengths), "repeats": repeats}
        body |= {"text": text, "saa": _saa(policy)}
        return [_timing(each) for each in self._json("POST", "/saa/v1/measure", body)["timings"]]

    def sweep(self, model: str, text: str, policy: Asked = "default") -> list[dict[str, Any]]:
        """The trade-off of a text: the fields of a :class:`saa_core.explain.tradeoff.Point` for each mass."""
        body = {"model": model, "text": text, "saa": _saa(policy)}
        return list(self._json("POST", "/saa/v1/tradeoff", body)["points"])

    def effects(
        self,
        model: str,
        text: str,
        layer: int,
        head: int | None = None,
        policy: Asked = "default",
    ) -> list[dict[str, Any]]:
        """What leaving out each block does: the fields of a :class:`saa_core.explain.effects.Effect`."""
        body: dict[str, Any] = {"model": model, "text": text, "layer": layer, "head": head}
        return list(self._json("POST", "/saa/v1/effects", body | {"saa": _saa(policy)})["effects"])

    def classify(
        self,
        model: str,
        texts: Sequence[str],
        policy: Asked | None = "default",
        *,
        cut: bool = False,
        batch: int = 128,
    ) -> Iterator[Prediction]:
        """Labels texts, ``batch`` in a request."""
        for start in range(0, len(texts), batch):
            body: dict[str, Any] = {"model": model, "input": list(texts[start : start + batch])}
            answer = self._json("POST", "/v1/classify", body | {"saa": _saa(policy) | {"cut": cut}})
            labels = answer["saa"]["labels"]
            for each in answer["data"]:
                yield Prediction(
                    label=each["label"],
                    probabilities=dict(zip(labels, each["probs"], strict=True)),
                    **each["saa"],
                )

    def generate(
        self,
        model: str,
        prompt: str,
        policy: Asked | None = "default",
        *,
        max_new_tokens: int = 16,
    ) -> Iterator[str]:
        """Continues a text piece by piece; leaving the iterator stops the work there."""
        body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": max_new_tokens}
        body |= {"stream": True, "saa": _saa(policy)}
        connection = self._connect()
        try:
            response = self._answer(
                connection, "POST", "/v1/completions", body, "text/event-stream"
            )
            while line := response.readline(1 << 20):
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise BackendError(f"backend {self.address}: {event['error']['message']}")
                for choice in event["choices"]:
                    if choice["text"]:
                        yield choice["text"]
        except SAAError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._away(error) from error
        finally:
            connection.close()

    def traces(self) -> list[dict[str, Any]]:
        """Kept runs that this token may see: id, who asked, when it is deleted."""
        return list(self._json("GET", "/saa/v1/traces")["traces"])

    def trace(self, run: str) -> "Trace":
        """A kept run."""
        return _trace(self._send("GET", f"/saa/v1/traces/{quote(run, safe='')}", None, TRACE)[0])

    def delete(self, run: str) -> None:
        """Deletes a kept run."""
        self._json("DELETE", f"/saa/v1/traces/{quote(run, safe='')}")

    def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        found = json.loads(self._send(method, path, body, "application/json")[0])
        if not isinstance(found, dict):
            raise BackendError(
                f"backend {self.address} answers {path} with no object; is it one of saa serve?"
            )
        return found

    def _send(
        self, method: str, path: str, body: object, accept: str
    ) -> tuple[bytes, Mapping[str, str]]:
        connection = self._connect()
        try:
            response = self._answer(connection, method, path, body, accept)
            content = response.read(MOST_BYTES)
            return content, {name.lower(): value for name, value in response.getheaders()}
        except SAAError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._away(error) from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(str(self._parts.hostname), self._parts.port, timeout=self.timeout)

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: object,
        accept: str,
    ) -> http.client.HTTPResponse:
        """The response, where it is no refusal.

        Raises:
            BackendError, PolicyError, TextError: it is one.
        """
        headers = {"Accept": accept}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection.request(method, self._base + path, content, headers)
        response = connection.getresponse()
        if response.status < 400:
            return response
        raise self._refusal(response)

    def _refusal(self, response: http.client.HTTPResponse) -> SAAError:
        try:
            about = json.loads(response.read(1 << 20))["error"]
            said = str(about["message"] if isinstance(about, dict) else about)
        except (ValueError, KeyError, TypeError):
            said = f"status {response.status}"
        message = f"backend {self.address}: {said}"
        if response.status == 400:
            return (
                TextError(message) if "tokens" in said and "text" in said else PolicyError(message)
            )
        after = response.getheader("Retry-After", "")
        return BackendError(message, response.status, int(after) if after.isdigit() else None)

    def _away(self, error: Exception) -> BackendError:
        why = getattr(error, "strerror", None) or type(error).__name__
        return BackendError(
            f"backend {self.address} does not answer ({why}); is saa serve running there?"
        )


def asked_fields(policy: Policy) -> dict[str, Any]:
    """What a policy changes against the defaults of a Policy, as a request says it."""
    plain = Policy()
    found = {
        each.name: getattr(policy, each.name)
        for each in fields(Policy)
        if getattr(policy, each.name) != getattr(plain, each.name) and each.name != "default_at"
    }
    if policy.guard is not None:
        own = asdict(policy.guard)
        found["guard"] = {name: own[name] for name in ("missed_mass", "delta", "margin")}
    if policy.force:
        found["force"] = [asdict(each) for each in policy.force]
    return found


def _saa(policy: Asked | None) -> dict[str, Any]:
    if policy is None or isinstance(policy, str):
        return {"policy": "dense" if policy is None else policy}
    if isinstance(policy, Mapping):
        return {"policy": dict(policy)}
    return {"policy": asked_fields(policy)}


def _timing(about: Mapping[str, Any]) -> Timing:
    lists = {name: tuple(value) for name, value in about.items() if isinstance(value, list)}
    return Timing(**{**about, **lists})


def _trace(content: bytes) -> "Trace":
    """A trace from the bytes of its file, all of it in memory.

    Raises:
        TraceError: it is none.
    """
    from saa_core.trace.maps import InMemory
    from saa_core.trace.trace import Trace

    with tempfile.TemporaryDirectory(prefix="saa-") as folder:
        file = Path(folder) / "run.saa"
        file.write_bytes(content)
        trace = Trace.load(file)
        if trace.layers is None:
            return trace
        read = {layer: trace.layers.read(layer) for layer in range(trace.shape[0])}
        return replace(trace, layers=InMemory(read))
