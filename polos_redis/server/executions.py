"""Routes of executions: start, list, read, cancel, retry, fork, delete, audit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response

from polos_redis import results
from polos_redis.errors import ConfigurationError
from polos_redis.executions import queries
from polos_redis.server import shapes
from polos_redis.server.bodies import Json, JsonRoute
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem
from polos_redis.server.security import forbidden, require, uncovered
from polos_redis.server.site import Client
from polos_redis.server.stored_json import StoredJson
from polos_redis.state.keys import LONGEST_NAME
from polos_redis.tracing import TraceContext, received
from polos_redis.values.json_value import from_json
from polos_redis.values.preview import Stored
from polos_redis.workflow import InvokeOptions

router = APIRouter(prefix="/api/v1/executions", route_class=JsonRoute, tags=["executions"])


@router.post("", status_code=201, responses={201: {"model": shapes.Started}})
async def start(
    body: shapes.StartRequest,
    client: Client,
    caller: Annotated[Caller, Depends(require("invoke", restricts=True))],
    idempotency_key: Annotated[str, Header(max_length=LONGEST_NAME)] = "",
    traceparent: Annotated[str, Header()] = "",
    tracestate: Annotated[str, Header()] = "",
) -> Response:
    """Start an execution of a workflow by its id; a worker validates the input. Repeating a request with the
    same idempotency key starts it once. The spans of its activations belong to the W3C trace context of the
    request, if it has one."""
    if idempotency_key and body.idempotency_key not in (None, idempotency_key):
        raise Problem(
            409, "idempotency_key and the header Idempotency-Key differ", kind="idempotency-conflict"
        )
    if not caller.covers(body.workflow_id):
        raise uncovered(caller, f"it can't start {body.workflow_id!r}", "invoke")
    names = body.model_fields_set - {"workflow_id", "input"}
    options = InvokeOptions(**{name: getattr(body, name) for name in names})  # type: ignore[typeddict-item]
    options["idempotency_key"] = body.idempotency_key or idempotency_key or None
    if not body.user_id:
        options["user_id"] = caller.name
    options["started_by"] = caller.name
    if body.initial_state is not None:
        options["initial_state"] = from_json(body.initial_state)
    try:
        with received(TraceContext.parse(traceparent, tracestate)):
            handle = await client.invoke(body.workflow_id, from_json(body.input), **options)
    except ConfigurationError as error:  # a concurrency_key without a limit on the queue
        raise Problem(409, str(error), kind="queue-conflict", title="Queue conflict") from None
    location = f"{router.prefix}/{handle.id}"
    return Json({"id": handle.id, "workflow_id": handle.workflow_id}, 201, {"Location": location})


@router.get("", responses={200: {"model": shapes.ExecutionPage}})
async def list_executions(
    client: Client,
    caller: Annotated[Caller, Depends(require("read", restricts=True))],
    status: results.ExecutionStatus | None = None,
    workflow: str | None = None,
    limit: shapes.Limit = 50,
    cursor: shapes.PlaceCursor = None,
) -> Response:
    """List executions, newest first. A page of a key that is restricted to workflows may be short."""
    page = await queries.list_executions(
        client, status=status, workflow=workflow, limit=limit, cursor=cursor, roots=caller.workflows
    )
    return Json({"executions": list(page), "next_cursor": page.next_cursor})


@router.get("/{execution_id}", responses={200: {"model": results.Execution}})
async def get_execution(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("read"))]
) -> Response:
    """Return everything about an execution."""
    return StoredJson(await queries.get_execution(client, execution_id, Stored))


@router.delete("/{execution_id}", responses={200: {"model": shapes.Deleted}})
async def delete(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("admin"))]
) -> Response:
    """Delete a finished root execution and its descendants. The audit keeps who decided what and when, but
    not the answers."""
    return Json({"deleted": await client.delete(execution_id)})


@router.post("/{execution_id}/cancel", responses={200: {"model": shapes.Cancelled}})
async def cancel(
    execution_id: str, client: Client, caller: Annotated[Caller, Depends(require("invoke"))]
) -> Response:
    """Cancel an execution and its descendants."""
    await client.cancel(execution_id, cancelled_by=caller.name)
    return Json({"id": execution_id, "status": "cancelled", "cancelled_by": caller.name})


@router.post("/{execution_id}/retry", responses={200: {"model": shapes.Retried}})
async def retry(
    execution_id: str,
    client: Client,
    caller: Annotated[Caller, Depends(require("invoke"))],
    body: shapes.RetryRequest | None = None,
) -> Response:
    """Continue a failed, stuck or paused execution from its journal, as a new run. To `skip` accepted answers
    that its code does not reach requires the scope admin, and is noted in the audit."""
    skip, reason = ((), None) if body is None else (body.skip, body.reason or None)
    if skip and not caller.may("admin"):
        raise forbidden("the scope 'admin' is required to skip answers", "admin")
    run = await client.retry(execution_id, skip=skip, reason=reason, by=caller.name)
    return Json({"id": execution_id, "run": run})


@router.post("/{execution_id}/fork", status_code=201, responses={201: {"model": shapes.Forked}})
async def fork(
    execution_id: str,
    client: Client,
    caller: Annotated[Caller, Depends(require("invoke"))],
    body: shapes.ForkRequest,
) -> Response:
    """Start a new execution with the input and the journal of another one up to a step. Requires the scopes
    read and invoke. A restricted key must cover the execution's own workflow, too: the fork is a root."""
    if not caller.may("read"):
        raise forbidden("the scope 'read' is required to copy an execution", "read")
    if body.keep_decisions and not caller.may("admin"):
        raise forbidden("the scope 'admin' is required to copy decisions", "admin")
    if caller.workflows:
        workflow_id = (await client.get_handle(execution_id)).workflow_id
        if not caller.covers(workflow_id):
            raise uncovered(caller, f"it can't start {workflow_id!r}", "invoke")
    handle = await client.fork(
        execution_id,
        from_step=body.from_step,
        results={key: from_json(value) for key, value in body.results.items()},
        keep_decisions=body.keep_decisions,
        by=caller.name,
    )
    found = {"id": handle.id, "workflow_id": handle.workflow_id, "forked_from": execution_id}
    return Json(found, 201, {"Location": f"{router.prefix}/{handle.id}"})


@router.get("/{execution_id}/audit", responses={200: {"model": shapes.Audit}})
async def audit(
    execution_id: str,
    client: Client,
    caller: Annotated[Caller, Depends(require("read"))],
    limit: shapes.Limit = 1000,
    cursor: shapes.Cursor = None,
) -> Response:
    """Return the decisions on its suspensions, oldest first: who, what, when, and through which channel."""
    page = await queries.audit_page(client, execution_id, limit=limit, cursor=cursor, read=Stored)
    return StoredJson({"audit": list(page), "next_cursor": page.next_cursor})
