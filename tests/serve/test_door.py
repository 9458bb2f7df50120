"""What stands before every route: hosts, origins, tokens, sizes, times; and hostile bodies behind it."""

import json
import logging
import random
import socket
import time

import pytest

import saa_core as saa
from saa_core.serve.access import TOKEN, read_access
from saa_core.serve.logs import Lines
from saa_core.serve.settings import Limits, ServedModel, Settings
from tests.serve.conftest import settings
from tests.serve.serving import Running, running, wait_for

SECRET, OTHER = "a-secret-of-an-operator", "a-secret-of-a-user-01"
ROUTES = (
    *("/metrics", "/openapi.json", "/v1/models", "/v1/models/toys", "/v2", "/v2/health/ready"),
    *("/v2/models/toys", "/saa/v1/status", "/saa/v1/traces", "/nothing", "//metrics", "/docs"),
)


@pytest.fixture(scope="module")
def locked(toys, tmp_path_factory) -> Running:
    folder = tmp_path_factory.mktemp("locked")
    tokens = folder / "tokens"
    tokens.write_text(f"# ours\nops operator {SECRET}\nana user {OTHER}\n")
    with running(settings(folder, "toys", token_file=str(tokens)), {"toys": toys}) as own:
        yield own


@pytest.fixture(scope="module")
def small(toys, tmp_path_factory) -> Running:
    limits = Limits(body_bytes=20_000, texts=20, tokens=500, idle_seconds=0.5, new_tokens=8)
    offered = settings(tmp_path_factory.mktemp("small"), "toys", limits=limits)
    with running(offered, {"toys": toys}) as own:
        yield own


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_but_liveness_is_behind_the_token(locked, path):
    assert locked.ask("/v2/health/live").status == 200
    for authorization in ("", "Bearer wrong", f"Basic {SECRET}", f"Bearer {SECRET}x", "Bearer "):
        answer = locked.ask(path, Authorization=authorization)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert locked.ask(path, Authorization=f"Bearer {SECRET}").status in (200, 404)


def test_what_is_sent_is_behind_the_token_too(locked):
    body = {"model": "toys", "input": "w5"}
    assert locked.ask("/v1/classify", body).status == 401
    assert locked.ask("/v1/classify", body, Authorization=f"Bearer {OTHER}").status == 200
    assert locked.figure("saa_requests_rejected_total", reason="auth") > 0


def test_hosts_and_origins(locked):
    own = {"Authorization": f"Bearer {SECRET}"}
    assert locked.ask("/v1/models", Host="evil.example", **own).status == 421
    assert locked.ask("/v1/models", Host="localhost:1", **own).status == 200
    assert locked.ask("/v1/models", Origin="https://evil.example", **own).status == 403
    assert locked.ask("/v1/models", Origin="null", **own).status == 403
    same = f"127.0.0.1:{locked.port}"
    assert locked.ask("/v1/models", Origin=f"http://{same}", Host=same, **own).status == 200


def test_another_address_needs_a_token_and_a_name(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(saa.PolicyError, match="needs a token"):
        read_access(settings(tmp_path, "toys", host="192.0.2.1"))
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(saa.PolicyError, match="16 or more") as refused:
        read_access(settings(tmp_path, "toys", host="192.0.2.1"))
    assert "short" not in str(refused.value)
    monkeypatch.setenv(TOKEN, SECRET)
    with pytest.raises(saa.PolicyError, match="has no name"):
        read_access(settings(tmp_path, "toys", host="0.0.0.0"))
    found = read_access(settings(tmp_path, "toys", host="0.0.0.0", hosts=("backend",)))
    assert found.knows_host("backend:8601")
    assert not found.knows_host("0.0.0.0:8601")
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b'{"model": "toys", "input": "\xc3\x28"}', 400),
        (b'{"model": "toys", "input": "\\ud800"}', 400),
        (b'{"model": "toys", "input": ["w5", 7]}', 400),
        (b'{"model": "toys", "input": []}', 400),
        (b'{"model": "toys", "input": "   "}', 400),
        (b'{"model": "toys\\u0000", "input": "w5"}', 404),
        (b'{"model": {"a": 1}, "input": "w5"}', 400),
        (b"[" * 9000, 400),
        (b'{"model": "toys", "input": "w5", "saa": {"policy": {"kernel": "reference"}}}', 400),
        (b'{"model": "toys", "input": "w5", "saa": {"policy": {"tokens": 0.01}}}', 400),
        (b'{"model": "toys", "input": "w5", "saa": {"policy": {"tokens": NaN}}}', 400),
        (b'{"model": "toys", "input": "w5", "saa": {"policy": {"guard": {"rows": 1}}}}', 400),
        (b'{"model": "toys", "input": "w5", "saa": {"other": 1}}', 400),
        (b'{"model": "toys", "input": "w5", "saa": {"policy": "../../etc/passwd"}}', 400),
        (json.dumps({"model": "toys", "input": ["w5"] * 21}).encode(), 400),
        (json.dumps({"model": "toys", "input": ["w5 " * 100] * 6}).encode(), 400),
        (json.dumps({"model": "toys", "input": "w5 " * 300}).encode(), 400),
        (b" " * 20_001, 413),
    ],
)
def test_hostile_bodies_are_refused(small, body, status):
    answer = small.ask("/v1/classify", body)
    assert answer.status == status
    assert answer.json["error"]["message"]
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    "inputs",
    [
        b"[]",
        b'{"inputs": []}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1000000000], "data": ["a"]}]}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["w5"]}]}',
        b'{"inputs": [{"name": "text", "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], '
        b'"parameters": {"binary_data_size": 99}}]}',
        *(
            b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["w5"]}], '
            b'"outputs": [' + names + b"]}"
            for names in (b'{"name": "probs"}, {"name": "probs"}', b'{"name": ["probs"]}', b"{}")
        ),
    ],
)
def test_hostile_tensors_are_refused(small, inputs):
    answer = small.ask("/v2/models/toys/infer", inputs)
    assert answer.status == 400
    assert isinstance(answer.json["error"], str)
    cut = small.ask("/v2/models/toys/infer", inputs, Inference_Header_Content_Length="7000000")
    assert cut.status == 400


def test_large_bodies_end_the_connection(small):
    """Said beforehand, or counted while it arrives in chunks; neither is read to its end."""
    said = small.send("/v1/classify", {}, length=100 << 20)
    assert said.recv(65_536).startswith(b"HTTP/1.1 413")
    said.close()
    chunked = socket.create_connection(("127.0.0.1", small.port), timeout=30)
    chunked.sendall(
        b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    sent = 0
    try:
        for _ in range(3000):
            chunked.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            sent += 0x4000
    except OSError:
        pass
    assert sent < 40 << 20
    chunked.close()
    wait_for(lambda: small.server.door.inside == 0)


def test_slow_clients_are_let_go(small):
    """A header, a body, that trickles in; an idle connection holds nothing."""
    began = time.monotonic()
    header = socket.create_connection(("127.0.0.1", small.port), timeout=30)
    header.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: local")
    body = small.send("/v1/classify", {}, length=1000)
    trickle = b""
    assert header.recv(100) == b""
    while part := body.recv(65_536):
        trickle += part
    assert trickle.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 10
    wait_for(lambda: small.server.door.inside == 0)


def test_encodings_and_paths(small):
    packed = small.ask("/v1/classify", b"\x1f\x8b", Content_Encoding="gzip")
    assert packed.status == 415
    for path in ("/saa/v1/traces/..%2f..%2fetc%2fpasswd", "/saa/v1/traces/%00", "/v2/models/..%2f"):
        assert small.ask(path).status in (400, 404)
    assert small.ask("/v1/classify", method="DELETE").status == 405


def test_request_ids(small):
    assert small.ask("/v2", X_Request_Id="mine-1").headers["x-request-id"] == "mine-1"
    for forged in ("a" * 65, "a b", "a\tb"):
        assert small.ask("/v2", X_Request_Id=forged).headers["x-request-id"] != forged


def test_more_than_the_limits_is_told_when_to_come_again(toys, tmp_path):
    """Requests and tokens are counted at admission, before anything is tokenized."""
    limits = Limits(waiting=2, waiting_tokens=60)
    with running(settings(tmp_path, "toys", limits=limits), {"toys": toys}) as own:
        admission = own.service.admission
        held = own.service.catalog.get("toys").runs
        real = held.encode
        held.encode = lambda *given, **more: pytest.fail("it was tokenized")
        admission.requests = 2
        busy = own.ask("/v1/classify", {"model": "toys", "input": "w5"})
        assert busy.status == 429
        assert 1 <= int(busy.headers["retry-after"]) <= 60
        admission.requests, admission.tokens = 1, 59
        full = own.ask("/v1/classify", {"model": "toys", "input": "w5 " * 10})
        assert full.status == 429
        assert full.json["error"]["type"] == "rate_limit_error"
        admission.requests = admission.tokens = 0
        held.encode = real
        assert own.ask("/v1/classify", {"model": "toys", "input": "w5"}).status == 200
        assert admission.requests == admission.tokens == 0
        assert own.figure("saa_requests_rejected_total", reason="requests") == 1
        assert own.figure("saa_requests_rejected_total", reason="tokens") == 1


def test_unknown_models_make_no_series(small):
    for at in range(3):
        assert small.ask("/v1/classify", {"model": f"made-{at}", "input": "w5"}).status == 404
    assert b"made-" not in small.ask("/metrics").body


def test_the_log_holds_no_text_and_no_secret(locked, caplog):
    word = "w5 sesame-of-a-user"
    with caplog.at_level(logging.INFO, "saa.serve"):
        locked.ask(
            "/v1/classify", {"model": "toys", "input": word}, Authorization=f"Bearer {OTHER}"
        )
        locked.ask("/v1/classify", {"model": word, "input": 7}, Authorization=f"Bearer {OTHER}")
        locked.ask(f"/v1/{word.replace(' ', '-')}", Authorization=f"Bearer {OTHER}")
        wait_for(lambda: len(_own(caplog)) >= 3)
    lines = [Lines().format(record) for record in _own(caplog)]
    for line in lines:
        about = json.loads(line)
        assert about["caller"] == "ana"
        assert "sesame" not in line
        assert OTHER not in line
    assert any(json.loads(line).get("op") == "classify" for line in lines)


def _own(caplog):
    """What the server itself logged: uvicorn's lines are heard too where another test let it speak."""
    return [record for record in caplog.records if record.name == "saa.serve"]


def test_settings_name_what_is_wrong(tmp_path):
    file = tmp_path / "serve.toml"
    from saa_core.serve.settings import read_settings

    for text, what in (
        ("port = 70000\n[[model]]\nmodel = 'minilm'", "port=70000"),
        ("[[model]]\nmodel = 'minilm'\nengine = 'x'", "either model or engine"),
        ("[[model]]\nmodle = 'minilm'", "choose one of"),
        ("[limits]\ntexts = 0\n[[model]]\nmodel = 'minilm'", "limits.texts=0"),
        ("[keep]\nwhat = 'all'\n[[model]]\nmodel = 'minilm'", "keep.what"),
        ("[[model]]\nmodel = 'minilm'\ndefault = 'strict'", "strict"),
        ("", "models is empty"),
        ("[[model", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(saa.PolicyError, match=what):
            read_settings(file)
    file.write_text("[[model]]\nengine = 'spam'\n[keep]\nwhat = 'text'\nfolder = 'runs'\n")
    found = read_settings(file)
    assert found.models[0].engine == str(tmp_path / "spam")
    assert found.keep.folder == str(tmp_path / "runs")
    assert Settings(models=(ServedModel(model="minilm"),)).loopback


@pytest.mark.slow
def test_random_bytes_never_make_a_500(small):
    draw = random.Random(0)
    paths = [
        "/v1/classify",
        "/v1/completions",
        "/v1/embeddings",
        "/saa/v1/run",
        "/v2/models/toys/infer",
    ]
    for _ in range(100):
        body = bytes(draw.randrange(256) for _ in range(draw.randrange(60)))
        if draw.random() < 0.5:
            body = json.dumps(
                {"model": "toys", "input": body.decode("latin-1"), "text": [body.hex()]}
            ).encode()
        assert small.ask(draw.choice(paths), body).status < 500
