"""The list of executions, newest first."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.errors import ConfigurationError
from polos_redis.executions import queries
from polos_redis.server.pages.page_route import PageRoute
from polos_redis.server.pages.rendering import render
from polos_redis.server.pages.visitors import visitor
from polos_redis.server.problems import Problem
from polos_redis.server.site import site_of
from polos_redis.state.statuses import STATUSES

PAGE_ROWS = 50
MAX_WORKFLOWS = 200  # suggested for the filter

router = APIRouter(route_class=PageRoute)


@router.api_route("/executions", methods=["GET", "HEAD"])
async def show(request: Request, status: str = "", workflow: str = "", cursor: str = "") -> Response:
    caller = await visitor(request, restricts=True)
    client = site_of(request).client
    workflow = workflow.strip()
    try:
        page = await queries.list_executions(
            client,
            status=status or None,
            workflow=workflow or None,
            limit=PAGE_ROWS,
            cursor=cursor or None,
            roots=caller.workflows,
        )
    except ConfigurationError as error:
        raise Problem(422, str(error)) from None
    return render(
        request,
        "executions.html",
        {
            "rows": list(page),
            "status": status,
            "statuses": STATUSES,
            "workflow": workflow,
            "workflows": sorted(caller.workflows or await client.served_workflows())[:MAX_WORKFLOWS],
            "cursor": cursor,
            "more": page.next_cursor,
        },
    )
