"""Routes for monitoring: liveness, readiness, metrics."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from polos_redis.errors import PolosError
from polos_redis.server import shapes
from polos_redis.server.bodies import Json
from polos_redis.server.callers import Caller
from polos_redis.server.problems import RETRY_SECONDS, Problem
from polos_redis.server.security import require
from polos_redis.server.site import Client

READY_TIMEOUT_SECONDS = 2.0

METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Metrics in the Prometheus text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={200: {"model": shapes.Health}})
async def healthz() -> Response:
    """Succeed while the process responds."""
    return Json({"status": "ok"})


@router.get("/readyz", responses={200: {"model": shapes.Health}})
async def readyz(client: Client) -> Response:
    """Succeed while Redis responds, too; on a cluster, all of its masters."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            store = await client.store()
            await asyncio.gather(*(node.call("PING") for node in await store.wire.nodes()))
    except (PolosError, TimeoutError):
        raise Problem(
            503,
            "Redis does not respond",
            kind="redis-unavailable",
            title="Redis is unavailable",
            headers={"Retry-After": str(RETRY_SECONDS)},
        ) from None
    return Json({"status": "ready"})


@router.get("/metrics", responses=METRICS)
async def metrics(client: Client, caller: Annotated[Caller, Depends(require("read"))]) -> Response:
    """Return the namespace's metrics, for Prometheus."""
    from polos_redis.metrics.prometheus import CONTENT_TYPE, exposition

    return Response(await exposition(client), headers={"Content-Type": CONTENT_TYPE})
