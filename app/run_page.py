"""The address /run/ID: a stored run as its report, straight from the server, without Streamlit's page.

A browser that was never here must load Streamlit before it shows anything; this is one file, which is
there at once and asks for nothing else.
"""

import base64
import functools
import gzip
import hashlib
from html import escape
from pathlib import Path
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import saa_core as saa
from app import text
from saa_core.files import store_dir
from saa_core.report import report, script
from saa_core.store import Store

KEPT = 32
"""Reports that are kept, compressed."""
SCRIPT_HASH = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'sha256-{SCRIPT_HASH}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "private, no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding, Accept-Language",
}
"""Only the report's own script runs, and nothing is loaded from anywhere."""


def routes() -> list[Route]:
    return [Route("/run/{run}", run_page)]


def address(run: str, lang: str) -> str:
    """Where a stored run is found, from the root of the server."""
    return f"/run/{quote(run, safe='')}?{urlencode({'lang': lang})}"


def run_page(request: Request) -> Response:
    """The report of a run; or a sentence: 404 where there is none, 422 where its file is broken, 503 where
    the store cannot be opened."""
    run, lang = request.path_params["run"], _language(request)
    try:
        store = _store(store_dir())
    except (saa.StoreError, OSError):
        return _refusal("closed", 503, run, lang)
    try:
        file = store.path(run).stat()
        page = _compress(store.folder, run, lang, file.st_mtime_ns, file.st_size)
    except saa.TraceError:
        return _refusal("broken", 422, run, lang)
    except (saa.StoreError, OSError):
        return _refusal("missing", 404, run, lang)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return HTMLResponse(page, headers=HEADERS | {"Content-Encoding": "gzip"})
    return HTMLResponse(gzip.decompress(page), headers=HEADERS)


def _language(request: Request) -> str:
    """What the address says; else the browser's, if we speak it."""
    asked = request.query_params.get("lang") or request.headers.get("accept-language", "")[:2]
    return asked if asked in text.LANGUAGES else "en"


@functools.lru_cache(maxsize=4)
def _store(folder: Path) -> Store:
    return Store(folder)


@functools.lru_cache(maxsize=KEPT)
def _compress(folder: Path, run: str, lang: str, _changed: int, _size: int) -> bytes:
    """The report, made once for as long as the file stays as it is."""
    explorer = f"../?{urlencode({'trace': run, 'lang': lang})}"
    page = report(_store(folder).get(run), language=lang, name=run, explorer=explorer)
    return gzip.compress(page.encode(), 5)


def _refusal(key: str, status: int, run: str, lang: str) -> Response:
    """A sentence; where the store lies is nobody's business who asks for a run that is not in it."""
    words = text.load(lang)
    page = (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
        f"<title>SAA</title></head><body><h1>{escape(words(f'run_page.{key}'))}</h1>"
        f'<p>{escape(run)}</p><p><a href="../traces?lang={lang}">'
        f"{escape(words('run_page.traces'))}</a></p></body></html>\n"
    )
    return HTMLResponse(page, status, headers=HEADERS)
