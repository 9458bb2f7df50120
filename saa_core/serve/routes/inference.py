"""The Open Inference Protocol, version 2: health, metadata, infer. Its Python client works as it is."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from saa_core.errors import PolicyError
from saa_core.serve.jobs import Ticket
from saa_core.serve.routes import tensors
from saa_core.serve.routes.openai import DEFAULT_TOKENS, asking_of
from saa_core.serve.service import Service

OUTPUTS = {
    "task": (("label", "BYTES", [-1]), ("probabilities", "FP32", [-1, -1])),
    "encoder": (("embedding", "FP32", [-1, -1]),),
    "writer": (("text", "BYTES", [1]),),
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                        "parameters": {"type": "object"},
                    },
                }
            }
        },
    }
}
"""What OpenAPI says about a body that may have bytes behind its JSON."""


def routes(service: Service) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["Open Inference Protocol"])

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/v2/health/ready")
    async def ready() -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @router.get("/v2")
    async def about() -> dict[str, Any]:
        return {"name": "saa", "version": service.version, "extensions": ["binary_tensor_data"]}

    @router.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> Response:
        service.catalog.get(name)
        return JSONResponse({"name": name, "ready": service.ready}, 200 if service.ready else 503)

    @router.get("/v2/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        runs = service.catalog.get(name).runs
        outputs = [
            {"name": n, "datatype": kind, "shape": shape} for n, kind, shape in OUTPUTS[runs.kind]
        ]
        return {
            "name": name,
            "versions": ["1"],
            "platform": "saa",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "outputs": outputs,
            "parameters": {"labels": ",".join(runs.labels)},
        }

    @router.post("/v2/models/{name}/infer", response_model=None, openapi_extra=BODY)
    async def infer(name: str, request: Request) -> Response:
        body, raw = tensors.read_request(await request.body(), request.headers.get(tensors.HEADER))
        texts = tensors.read_texts(body, raw, service.settings.limits.texts)
        asked, given = tensors.read_outputs(body), dict(tensors.parameters(body))
        found, ticket = await _infer(service, request, name, texts, given)
        about = {"saa_side": ticket.side, "saa_policy": ticket.facts.get("policy", "")}
        if "fallback" in ticket.facts:
            about["saa_fallback"] = ticket.facts["fallback"]
        head: dict[str, Any] = {"model_name": name, "model_version": "1", "parameters": about}
        head["id"] = str(body.get("id", ""))[:200]
        binary = given.get("binary_data_output") is True
        content, length = tensors.write_answer(head, found, asked, binary)
        headers = {} if length is None else {tensors.HEADER: str(length)}
        kind = "application/json" if length is None else "application/octet-stream"
        return Response(content, media_type=kind, headers=headers)

    return router


async def _infer(
    service: Service, request: Request, name: str, texts: list[str], given: dict[str, Any]
) -> tuple[dict[str, Any], Ticket]:
    """Outputs by name."""
    asking, kind = asking_of(request), service.catalog.get(name).runs.kind
    policy, cut = given.get("policy"), given.get("cut", False)
    if (policy is not None and not isinstance(policy, str)) or not isinstance(cut, bool):
        raise PolicyError("parameters: policy is the name of one, and cut is true or false")
    if kind == "task":
        labelled, ticket = await service.classify(asking, name, texts, policy, cut=cut)
        rows = [list(each.probabilities.values()) for each in labelled]
        return {
            "label": [each.label for each in labelled],
            "probabilities": np.array(rows, np.float32),
        }, ticket
    if kind == "encoder":
        embedded, ticket = await service.embed(asking, name, texts, policy, cut=cut)
        return {"embedding": np.array([each.vector for each in embedded], np.float32)}, ticket
    from saa_core.serve.work.writing import Sampling

    most = given.get("max_tokens", DEFAULT_TOKENS)
    if type(most) is not int or not 1 <= most <= service.settings.limits.new_tokens:
        raise PolicyError(f"parameters: max_tokens is 1 to {service.settings.limits.new_tokens}")
    if len(texts) != 1:
        raise PolicyError(f"model={name!r} continues one text at a time")
    written, found = "", None
    async for piece in service.write(asking, name, texts[0], policy, Sampling(most)):
        if isinstance(piece, Ticket):
            found = piece
        else:
            written += piece.text
    assert found is not None
    return {"text": [written]}, found
