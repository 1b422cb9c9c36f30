"""Routes for programs: liveness, readiness, metrics, and the API's description."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import Response

from polos_redis.client import PolosClient
from polos_redis.errors import PolosError, ReleaseTooOldError
from polos_redis.server import shapes
from polos_redis.server.bodies import Json
from polos_redis.server.callers import Caller
from polos_redis.server.latest import Latest
from polos_redis.server.problems import RETRY_SECONDS, Problem
from polos_redis.server.security import probed, public, require

READY_TIMEOUT_SECONDS = 2.0
MOST_CHECKS = "10/second"  # of Redis, and counts of the metrics, however many ask

METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Metrics in the Prometheus text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={200: {"model": shapes.Health}}, dependencies=[Depends(probed)])
async def healthz() -> Response:
    """Succeed while the process responds."""
    return Json({"status": "ok"})


async def redis_responds(client: PolosClient) -> bool:
    """Whether Redis responds: all servers, or all masters of a cluster. Raises `ReleaseTooOldError`."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            store = await client.store()
            await asyncio.gather(*(node.call("PING") for node in await store.wire.nodes()))
    except ReleaseTooOldError:
        raise
    except (PolosError, TimeoutError):
        return False
    return True


@router.get("/readyz", responses={200: {"model": shapes.Health}}, dependencies=[Depends(probed)])
async def readyz(request: Request) -> Response:
    """Succeed while Redis responds, too: all servers, or all masters of a cluster."""
    ready: Latest[bool] = request.app.state.ready
    if not await ready.get():
        raise Problem(
            503,
            "Redis does not respond",
            kind="redis-unavailable",
            title="Redis is unavailable",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    return Json({"status": "ready"})


@router.api_route(
    "/openapi.json", methods=["GET", "HEAD"], include_in_schema=False, dependencies=[Depends(public)]
)
async def openapi(request: Request) -> Response:
    """Describe the API."""
    schema, root = request.app.openapi(), request.scope.get("root_path", "").rstrip("/")
    return Json({**schema, "servers": [{"url": root}]} if root else schema)


@router.get("/metrics", responses=METRICS)
async def metrics(request: Request, caller: Annotated[Caller, Depends(require("read"))]) -> Response:
    """Return the namespace's metrics, for Prometheus."""
    from polos_redis.metrics.prometheus import CONTENT_TYPE

    counted: Latest[bytes] = request.app.state.metrics
    return Response(await counted.get(), headers={"Content-Type": CONTENT_TYPE})


def add_health(app: FastAPI, client: PolosClient) -> None:
    """Add the routes to the server's app."""

    async def count() -> bytes:
        from polos_redis.metrics.prometheus import exposition

        return await exposition(client)

    app.state.ready = Latest(lambda: redis_responds(client), MOST_CHECKS)
    app.state.metrics = Latest(count, MOST_CHECKS)
    app.include_router(router)
