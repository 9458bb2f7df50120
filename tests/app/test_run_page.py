"""The address of a stored run, asked as a browser asks: what comes back, under which rules, and what is refused."""

import base64
import hashlib
import os
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from streamlit.web.server.app_discovery import discover_asgi_app

from app import run_page, text
from benchmarks.synthetic import synthetic
from saa_core.store import Store
from tests.app.test_app import HOSTILE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of its own; the folder differs from test to test, so nothing is known of it yet."""
    monkeypatch.setenv("SAA_STORE", str(tmp_path / "store"))
    return Store()


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=run_page.routes()), follow_redirects=False)


def test_streamlit_run_serves_it_beside_the_pages() -> None:
    found = discover_asgi_app(ROOT / "app" / "main.py")
    assert found.import_string == "main:app"


def test_a_stored_run_is_its_report_with_a_way_into_the_explorer(
    store: Store, client: TestClient
) -> None:
    run = store.add(synthetic(0), run="20260101T000000Z-朝 1")
    for lang, title in (("en", "SAA report"), ("ja", "SAA レポート")):
        page = client.get(run_page.address(run, lang))
        assert page.status_code == 200
        assert f"<h1>{title}</h1>" in page.text
        assert f'<html lang="{lang}">' in page.text
        (way,) = re.findall(r'href="([^"]*)"', page.text)
        assert unescape(way) == f"../?trace={quote(run).replace('%20', '+')}&lang={lang}"
    page = client.get(f"/run/{quote(run)}", headers={"accept-language": "ja,en;q=0.5"})
    assert '<html lang="ja">' in page.text
    bare = client.get(f"/run/{quote(run)}?lang=xx", headers={"accept-encoding": "identity"})
    assert '<html lang="en">' in bare.text
    assert "content-encoding" not in bare.headers


def test_only_the_scripts_of_the_report_may_run_and_nothing_is_loaded(
    store: Store, client: TestClient
) -> None:
    trace = replace(synthetic(0, text=HOSTILE), tokens=(HOSTILE,) * 12)
    page = client.get(run_page.address(store.add(trace), "en"))
    rules = page.headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "frame-ancestors 'none'" in rules
    scripts = re.findall(
        r"<script(?! type=\"application/json\")[^>]*>(.*?)</script>", page.text, re.S
    )
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in rules
    assert "unsafe-inline" not in rules.partition("script-src")[2].partition(";")[0]
    assert not re.findall(r"(?:src|href)=\"?(?:https?:)?//", page.text)


def test_a_report_is_made_once_until_its_file_changes(
    store: Store, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = store.add(synthetic(0)), list[str]()
    whole = run_page.report
    monkeypatch.setattr(
        run_page, "report", lambda *args, **options: made.append("") or whole(*args, **options)
    )
    for _ in range(3):
        assert client.get(run_page.address(run, "en")).status_code == 200
    assert len(made) == 1
    file = store.path(run)
    synthetic(1, tokens=14).save(file)
    os.utime(file, ns=(1, 1))
    assert "14 tokens" in client.get(run_page.address(run, "en")).text
    store.delete(run)
    assert client.get(run_page.address(run, "en")).status_code == 404


@pytest.mark.parametrize(
    "asked",
    ["nothing", "..", ".hidden", "a%5Cb", "%3Cscript%3Ealert(1)%3C%2Fscript%3E", "a%00b", "x" * 500],
)  # fmt: skip
def test_what_is_no_run_gets_a_sentence_and_no_path(
    asked: str, store: Store, client: TestClient
) -> None:
    page = client.get(f"/run/{asked}?lang=en")
    assert page.status_code == 404
    assert "<script>alert" not in page.text
    assert str(store.folder) not in page.text


def test_ids_with_a_slash_never_reach_a_file(store: Store, client: TestClient) -> None:
    outside = store.folder.parent / "secret.saa"
    synthetic(0).save(outside)
    for asked in ("..%2Fsecret", "%2e%2e/secret", "..%252Fsecret"):
        page = client.get(f"/run/{asked}")
        assert page.status_code == 404
        assert "tokens" not in page.text


def test_a_broken_file_gets_a_sentence(store: Store, client: TestClient) -> None:
    (store.folder / "broken.saa").write_bytes(b"no trace")
    page = client.get("/run/broken?lang=en")
    assert page.status_code == 422
    assert text.load("en")("run_page.broken") in page.text
    assert str(store.folder) not in page.text


def test_a_store_of_a_later_version_is_no_traceback(store: Store, client: TestClient) -> None:
    run = store.add(synthetic(0))
    (store.folder / "store.json").write_text('{"saa_store": 99, "parts": []}')
    page = client.get(run_page.address(run, "en"))
    assert page.status_code == 503
    assert text.load("en")("run_page.closed") in page.text
