"""Errors as each protocol writes them: one sentence, no traceback, nothing of a text."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from saa_core.errors import ModelError, PolicyError, SAAError, StoppedError, TextError, TraceError
from saa_core.serve.catalog import UnknownModelError
from saa_core.serve.jobs import ClientGoneError, RefusedError, TimeLimitError

INTERNAL = "internal error; the server's log has it under this request id"
SHOWN = 4
"""Faults of a body that are named at most."""


def status_of(error: Exception) -> tuple[int, str, str]:
    """Status of HTTP, type of the error, sentence."""
    if isinstance(error, RefusedError):
        kind = "rate_limit_error" if error.status == 429 else "service_unavailable"
        return error.status, kind, str(error)
    if isinstance(error, TimeLimitError):
        return 504, "timeout", str(error)
    if isinstance(error, UnknownModelError):
        return 404, "not_found_error", str(error)
    if isinstance(error, (PolicyError, TextError, ModelError, TraceError)):
        return 400, "invalid_request_error", str(error)
    if isinstance(error, StoppedError):
        return 503, "service_unavailable", "the server stopped this request"
    return 500, "internal_error", INTERNAL


def body_of(error: Exception) -> dict[str, object]:
    """An error in OpenAI's form, as inside a stream."""
    status, kind, message = status_of(error)
    return {"error": _openai(kind, message, status)}


def answer(error: Exception, path: str) -> Response:
    """An error as the protocol of a path writes it."""
    status, kind, message = status_of(error)
    headers = {}
    if isinstance(error, RefusedError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return _written(path, status, kind, message, headers)


def install(app: FastAPI) -> None:
    """Makes the application answer with these."""

    async def own(request: Request, error: Exception) -> Response:
        return answer(error, request.url.path)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = [_fault(each) for each in error.errors()[:SHOWN]]
        return _written(request.url.path, 400, "invalid_request_error", "; ".join(faults), {})

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        headers = dict(error.headers or {})
        return _written(request.url.path, error.status_code, kind, str(error.detail), headers)

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(SAAError, own)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientGoneError, gone)
    app.add_exception_handler(Exception, own)


def _fault(about: Mapping[str, object]) -> str:
    """Where and what, without the value that came: it may be a text."""
    place = about.get("loc", ())
    parts = (
        [str(part) for part in place if part != "body"] if isinstance(place, (tuple, list)) else []
    )
    return f"{'.'.join(parts)[:80] or 'body'}: {about.get('msg')}"


def _written(
    path: str, status: int, kind: str, message: str, headers: Mapping[str, str]
) -> Response:
    message = message.encode("utf-8", "replace").decode()
    about: object = message if path.startswith("/v2") else _openai(kind, message, status)
    return JSONResponse({"error": about}, status, dict(headers))


def _openai(kind: str, message: str, status: int) -> dict[str, object]:
    return {"message": message, "type": kind, "param": None, "code": status}
