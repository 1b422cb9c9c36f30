"""Routes of suspensions: list, read, answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from polos_redis import results
from polos_redis.decisions import answers
from polos_redis.executions import queries
from polos_redis.executions.queries import read_suspension
from polos_redis.server import (
    paths,  # noqa: F401 - `anything` in the routes
    shapes,
)
from polos_redis.server.bodies import Json, JsonRoute
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem
from polos_redis.server.security import check_address, check_link, require
from polos_redis.server.site import Client
from polos_redis.server.stored_json import StoredJson
from polos_redis.values.preview import Stored

router = APIRouter(prefix="/api/v1", route_class=JsonRoute, tags=["suspensions"])


@router.get("/suspensions", responses={200: {"model": shapes.SuspensionPage}})
async def list_suspensions(
    client: Client,
    caller: Annotated[Caller, Depends(require("read", restricts=True))],
    workflow: str | None = None,
    limit: shapes.Limit = 50,
    cursor: shapes.Cursor = None,
) -> Response:
    """List open suspensions, oldest first. A page of a key that is restricted to workflows may be short."""
    page = await queries.list_suspensions(
        client, workflow=workflow, limit=limit, cursor=cursor, roots=caller.workflows, read=Stored
    )
    return StoredJson({"suspensions": list(page), "next_cursor": page.next_cursor})


@router.get(
    "/executions/{execution_id}/suspensions/{step_key:anything}",
    responses={200: {"model": results.SuspensionDetails}},
)
async def get_suspension(
    execution_id: str,
    step_key: str,
    client: Client,
    caller: Annotated[Caller, Depends(require("read", link=True))],
) -> Response:
    """Return a suspension, open or not: the data it shows, the schema of answers, and who may answer."""
    check_address(caller, execution_id, step_key)
    _, found = await read_suspension(client, execution_id, step_key, Stored)
    check_link(caller, found)
    return StoredJson(found)


@router.post(
    "/executions/{execution_id}/resume",
    responses={
        200: {"model": shapes.Decided},
        202: {"model": shapes.Decided, "description": "Stored until the suspension opens."},
    },
)
async def resume(
    execution_id: str,
    body: shapes.ResumeRequest,
    client: Client,
    caller: Annotated[Caller, Depends(require("approve", link=True))],
) -> Response:
    """Answer a suspension. Exactly one answer decides it; repeating that answer returns its outcome."""
    digest = body.shown_digest
    if caller.link is not None:
        check_address(caller, execution_id, body.step_key)
        suspension, view = await read_suspension(client, execution_id, body.step_key, Stored)
        check_link(caller, view)
        digest = digest or view["digest"]  # the link does not cover what a later opening may show
        who = _identity(caller, body.resumed_by)
        done = await answers.decide_stored(client, suspension, body.data, digest=digest, **who)
    else:
        who = _identity(caller, body.resumed_by)
        done = await answers.decide(
            client,
            execution_id,
            body.step_key,
            body.data,
            digest=digest,
            early=body.early,
            key_id=caller.key_id or "",
            **who,
        )
    outcome = {
        "outcome": done.outcome,
        "execution_id": done.execution_id,
        "step_key": done.step_key,
        "resumed_by": done.resumed_by,
        "resumed_at": done.resumed_at.isoformat(timespec="milliseconds"),
        "approvals": done.approvals,
        "required": done.required,
    }
    return Json(outcome, 202 if done.outcome == "early" else 200)


def _identity(caller: Caller, on_behalf: str | None) -> dict[str, Any]:
    """Who answers, and through which channel: the caller, or the person an admin names."""
    if on_behalf is None or on_behalf == caller.name:
        return {"by": caller.name, "groups": caller.groups, "channel": "api"}
    if caller.source != "dev" and not caller.may("admin"):
        raise Problem(
            403,
            "resumed_by requires the scope 'admin': other keys answer in their own name",
            kind="forbidden",
            scope="admin",
        )
    channel = "api" if caller.name is None else f"api, on behalf: {caller.name}"
    return {"by": on_behalf, "groups": (), "channel": channel}
