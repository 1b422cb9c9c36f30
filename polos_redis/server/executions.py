"""Executions: start, list, look at, cancel, retry, delete, and their audit."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from polos_redis.errors import ConfigurationError
from polos_redis.server import shapes
from polos_redis.server.bodies import Json, JsonRoute
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem
from polos_redis.server.security import require
from polos_redis.server.site import Client
from polos_redis.server.tokens import for_caller
from polos_redis.workflow import InvokeOptions

router = APIRouter(prefix="/api/v1/executions", route_class=JsonRoute, tags=["executions"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", description="A page's next_cursor.")]


@router.post("", status_code=201, responses={201: {"model": shapes.Started}})
async def start(
    body: shapes.StartRequest,
    client: Client,
    caller: Annotated[Caller, Depends(require("invoke"))],
    idempotency_key: Annotated[str, Header()] = "",
) -> Response:
    """Start an execution of a workflow, by its id; a worker checks the input. With an idempotency key it is
    started once, however often this is sent."""
    given = body.idempotency_key
    if idempotency_key and given not in (None, idempotency_key):
        raise Problem(
            409, "idempotency_key and the header Idempotency-Key differ", kind="idempotency-conflict"
        )
    named = body.model_fields_set - {"workflow_id", "input"}
    options = InvokeOptions(**{name: getattr(body, name) for name in named})  # type: ignore[typeddict-item]
    options["idempotency_key"] = given or idempotency_key or None
    if not body.user_id:
        options["user_id"] = caller.name
    options["started_by"] = caller.name
    try:
        handle = await client.invoke(body.workflow_id, body.input, **options)
    except ConfigurationError as error:  # the queue is not one for this
        raise Problem(409, str(error), kind="queue-conflict", title="The queue is not one for this") from None
    where = f"{router.prefix}/{handle.id}"
    return Json({"id": handle.id, "workflow_id": handle.workflow_id}, 201, {"Location": where})


@router.get("", responses={200: {"model": shapes.ExecutionPage}})
async def find(
    client: Client,
    caller: Annotated[Caller, Depends(require("read"))],
    status: shapes.Status | None = None,
    workflow: str | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Executions, newest first."""
    page = await client.list_executions(status=status, workflow=workflow, limit=limit, cursor=cursor)
    return Json({"executions": list(page), "next_cursor": page.next_cursor})


@router.get("/{execution_id}", responses={200: {"model": shapes.Execution}})
async def look(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("read"))]
) -> Response:
    """Everything known of an execution."""
    return Json(for_caller(caller, await client.get_execution(execution_id)))


@router.delete("/{execution_id}", responses={200: {"model": shapes.Deleted}})
async def delete(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("admin"))]
) -> Response:
    """Delete a root execution that has ended, and its descendants. Of its audit, who decided what and when
    stays; the answers go."""
    return Json({"deleted": await client.delete(execution_id)})


@router.post("/{execution_id}/cancel", responses={200: {"model": shapes.Cancelled}})
async def cancel(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("invoke"))]
) -> Response:
    """End an execution and its descendants."""
    await client.cancel(execution_id, cancelled_by=caller.name)
    return Json({"id": execution_id, "status": "cancelled", "cancelled_by": caller.name})


@router.post("/{execution_id}/retry", responses={200: {"model": shapes.Retried}})
async def retry(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("invoke"))]
) -> Response:
    """Let a failed execution go on from its journal, as a new run."""
    return Json({"id": execution_id, "run": await client.retry(execution_id)})


@router.get("/{execution_id}/audit", responses={200: {"model": shapes.Audit}})
async def audit(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("read"))]
) -> Response:
    """What became of its suspensions: who, when, what, through which channel; oldest first."""
    told: list[dict[str, Any]] = await client.audit(execution_id)
    return Json(for_caller(caller, {"audit": told}))
