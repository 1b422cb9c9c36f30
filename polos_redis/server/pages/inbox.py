"""The inbox: what waits for people, oldest first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.client import PolosClient
from polos_redis.decisions.answer_policy import verdict
from polos_redis.errors import ConfigurationError
from polos_redis.server.pages import display
from polos_redis.server.pages.layout import PageRoute, render, visitor
from polos_redis.server.problems import Problem
from polos_redis.server.site import site_of

PAGE = 50
BATCH = 250  # that are looked at in one call while a text is looked for
MOST_LOOKED_AT = 2000  # for one page
ID_LETTERS = 6  # the fewest that look for an execution's id

router = APIRouter(route_class=PageRoute)


@router.api_route("/", methods=["GET", "HEAD"])
async def show(request: Request, workflow: str = "", q: str = "", cursor: str = "") -> Response:
    await visitor(request)
    client = site_of(request).client
    try:
        rows, more = await _find(client, workflow.strip(), q.strip(), cursor or None)
    except ConfigurationError as error:
        raise Problem(422, str(error)) from None
    return render(
        request,
        "inbox.html",
        {
            "rows": [_row(one) for one in rows],
            "workflow": workflow.strip(),
            "workflows": sorted(await client.served_workflows()),
            "q": q.strip(),
            "cursor": cursor,
            "more": more,
        },
    )


async def _find(
    client: PolosClient, workflow: str, text: str, cursor: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of open suspensions in which every word of a text stands, and where to go on."""
    words = text.casefold().split()
    if not words:
        page = await client.list_suspensions(workflow=workflow or None, limit=PAGE, cursor=cursor)
        return list(page), page.next_cursor
    found: list[dict[str, Any]] = []
    for _ in range(MOST_LOOKED_AT // BATCH):
        page = await client.list_suspensions(workflow=workflow or None, limit=BATCH, cursor=cursor)
        found += [one for one in page if _has(one, words)]
        cursor = page.next_cursor
        if cursor is None or len(found) >= PAGE:
            break
    return found, cursor


def _has(suspension: Mapping[str, Any], words: list[str]) -> bool:
    """Whether every word stands in what is shown, or begins the execution's id."""
    shown = json.dumps(suspension["data"], ensure_ascii=False)
    where = f"{suspension['step_key']} {suspension['workflow_id']} {shown}".casefold()
    execution_id = suspension["execution_id"]
    return all(word in where or (len(word) >= ID_LETTERS and execution_id.startswith(word)) for word in words)


def _row(suspension: Mapping[str, Any]) -> dict[str, Any]:
    summary = display.summary(suspension["step_key"], suspension["data"])
    return {
        **suspension,
        "title": summary.title,
        "lead": summary.lead[:200],
        "gist": display.gist(suspension["data"]),
        "approvals": sum(verdict(one["data"]) is True for one in suspension["decisions"]),
    }
