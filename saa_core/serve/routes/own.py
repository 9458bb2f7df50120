"""SAA's own addresses: recorded runs, comparisons, times, trade-offs, effects, kept runs. Traces travel as ``.saa``."""

import json
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from saa_core.errors import ModelError
from saa_core.files import dump_json
from saa_core.serve import looking
from saa_core.serve.jobs import Ticket
from saa_core.serve.routes.openai import asking_of, told
from saa_core.serve.routes.shapes import CompareBody, EffectsBody, MeasureBody, RunBody, TextBody
from saa_core.serve.service import Service

TRACE, PAIR = "application/vnd.saa.trace", "application/vnd.saa.traces+zip"
FACTS = "x-saa-facts"
"""Header with what an answer in bytes cannot say: the same object as the field ``saa``."""


def routes(service: Service) -> APIRouter:
    """All of them; what needs PyTorch says so where no model of PyTorch is served."""
    router = APIRouter(tags=["SAA"], prefix="/saa/v1")

    @router.get("/status")
    async def status() -> dict[str, Any]:
        admission, limits = service.admission, service.settings.limits
        return {
            "ready": service.ready,
            "version": service.version,
            "device": service.device,
            "requests": admission.requests,
            "tokens": admission.tokens,
            "seconds_to_wait": admission.backlog() if admission.requests else 0,
            "kept": service.kept.keep.what,
            "limits": asdict(limits),
            "bounds": asdict(service.settings.bounds),
        }

    @router.post("/run", response_class=Response, responses={200: {"content": {TRACE: {}}}})
    async def run(body: RunBody, request: Request) -> Response:
        pack = _packing()
        trace, kept, ticket = await looking.run(
            service,
            asking_of(request),
            body.model,
            body.text,
            body.saa.policy,
            full=body.record == "full",
        )
        content = await service.in_files(pack.packed, trace)
        return Response(content, media_type=TRACE, headers=_facts(ticket, run=kept))

    @router.post("/compare", response_model=None)
    async def compare(body: CompareBody, request: Request) -> Response:
        pack = _packing()
        sides, ticket = await looking.compare(
            service, asking_of(request), body.model, body.text, body.saa.policy, body.damage
        )
        figures = pack.figures(sides)
        if PAIR in request.headers.get("accept", ""):
            content = await service.in_files(pack.packed_pair, sides)
            return Response(content, media_type=PAIR, headers=_facts(ticket))
        return _json(figures | told(ticket))

    @router.post("/measure", response_model=None)
    async def measure(body: MeasureBody, request: Request) -> Response:
        found, ticket = await looking.measure(
            service,
            asking_of(request),
            body.model,
            body.lengths,
            body.saa.policy,
            body.repeats,
            body.text,
        )
        return _json({"timings": [asdict(timing) for timing in found]} | told(ticket))

    @router.post("/tradeoff", response_model=None)
    async def tradeoff(body: TextBody, request: Request) -> Response:
        found, ticket = await looking.sweep(
            service, asking_of(request), body.model, body.text, body.saa.policy
        )
        return _json({"points": [asdict(point) for point in found]} | told(ticket))

    @router.post("/effects", response_model=None)
    async def effects(body: EffectsBody, request: Request) -> Response:
        found, ticket = await looking.effects(
            service,
            asking_of(request),
            body.model,
            body.text,
            body.saa.policy,
            body.layer,
            body.head,
        )
        return _json({"effects": [asdict(effect) for effect in found]} | told(ticket))

    @router.get("/fingerprints/{name:path}")
    async def fingerprints(name: str) -> dict[str, str]:
        found: dict[str, str] = await service.in_files(service.catalog.get(name).runs.digests)
        return found

    @router.get("/traces")
    async def traces(request: Request) -> dict[str, Any]:
        found = await service.in_files(service.kept.visible, asking_of(request).caller)
        return {"traces": [asdict(each) for each in found], "kept": service.kept.keep.what}

    @router.get("/traces/{run}", response_class=FileResponse)
    async def trace(run: str, request: Request) -> Response:
        file = await service.in_files(service.kept.file, run, asking_of(request).caller)
        if file is None:
            raise HTTPException(404, "there is no such run, or it is not yours")
        return Response(await service.in_files(file.read_bytes), media_type=TRACE)

    @router.delete("/traces/{run}")
    async def delete(run: str, request: Request) -> dict[str, bool]:
        if not await service.in_files(service.kept.delete, run, asking_of(request).caller):
            raise HTTPException(404, "there is no such run, or it is not yours")
        return {"deleted": True}

    return router


def _json(value: dict[str, Any]) -> Response:
    """JSON, with null for a number that is none."""
    return Response(dump_json(value), media_type="application/json")


def _facts(ticket: Ticket, **more: Any) -> dict[str, str]:
    return {FACTS: json.dumps(told(ticket, **more)["saa"])}


def _packing() -> Any:
    """The module that packs traces.

    Raises:
        ModelError: PyTorch is not installed, so that no model can be looked at.
    """
    try:
        from saa_core.serve.work import recording
    except ImportError as error:
        raise ModelError("PyTorch is not installed here; exported models record nothing") from error
    return recording
