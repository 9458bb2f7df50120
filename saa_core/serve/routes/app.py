"""The application: all routes behind the door."""

from fastapi import APIRouter, FastAPI
from starlette.responses import Response

from saa_core.serve.access import Access
from saa_core.serve.routes import errors, inference, openai, own
from saa_core.serve.routes.door import Door
from saa_core.serve.service import Service

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def make_app(service: Service, access: Access) -> Door:
    """Everything that is served. ``/openapi.json`` describes it; pages that load scripts from elsewhere are not
    offered."""
    app = FastAPI(
        title="SAA",
        description="Sparse Adaptive Attention: answers, and what was computed for them.",
        version=service.version,
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    for routes in (openai.routes, inference.routes, own.routes, _figures):
        app.include_router(routes(service))
    return Door(app, service, access)


def _figures(service: Service) -> APIRouter:
    router = APIRouter(tags=["Figures"])

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        service.catalog.observe(service.metrics)
        service.metrics.ready.set(service.ready)
        return Response(service.metrics.text(), media_type=EXPOSITION)

    return router
