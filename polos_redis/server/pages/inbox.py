"""The inbox: open suspensions, oldest first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.client import PolosClient
from polos_redis.decisions.answer_types import verdict
from polos_redis.errors import ConfigurationError
from polos_redis.executions import queries
from polos_redis.server.pages.page_route import PageRoute
from polos_redis.server.pages.previews import suspension_preview
from polos_redis.server.pages.rendering import render
from polos_redis.server.pages.suspension_summary import gist, summary
from polos_redis.server.pages.visitors import visitor
from polos_redis.server.problems import Problem
from polos_redis.server.site import site_of
from polos_redis.values.preview import PreviewBudget, Stored

PAGE_ROWS = 50
ROW_NODES = 200  # values of one suspension's data that a row or a search takes into account
ROW_CHARACTERS = 10_000  # of their texts
MAX_WORKFLOWS = 200  # suggested for the filter
SEARCH_BATCH = 50  # suspensions read per call while searching
MAX_SEARCHED = 2000  # suspensions read for one page
MIN_ID_CHARACTERS = 6  # of an execution id, for a search by id

router = APIRouter(route_class=PageRoute)


@router.api_route("/", methods=["GET", "HEAD"])
async def show(request: Request, workflow: str = "", q: str = "", cursor: str = "") -> Response:
    caller = await visitor(request, restricts=True)
    client = site_of(request).client
    try:
        rows, more = await _find(client, caller.workflows, workflow.strip(), q.strip(), cursor or None)
    except ConfigurationError as error:
        raise Problem(422, str(error)) from None
    return render(
        request,
        "inbox.html",
        {
            "rows": [_row(one) for one in rows],
            "workflow": workflow.strip(),
            "workflows": sorted(caller.workflows or await client.served_workflows())[:MAX_WORKFLOWS],
            "q": q.strip(),
            "cursor": cursor,
            "more": more,
        },
    )


async def _find(
    client: PolosClient, roots: Collection[str], workflow: str, text: str, cursor: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Returns a page of open suspensions that contain every word of the text, and the next cursor."""
    words = text.casefold().split()
    if not words:
        page = await queries.list_suspensions(
            client, workflow=workflow or None, limit=PAGE_ROWS, cursor=cursor, roots=roots, read=Stored
        )
        return [_preview(one) for one in page], page.next_cursor
    found: list[dict[str, Any]] = []
    for _ in range(MAX_SEARCHED // SEARCH_BATCH):
        page = await queries.list_suspensions(
            client, workflow=workflow or None, limit=SEARCH_BATCH, cursor=cursor, roots=roots, read=Stored
        )
        found += [one for one in map(_preview, page) if _matches(one, words)]
        cursor = page.next_cursor
        if cursor is None or len(found) >= PAGE_ROWS:
            break
        await asyncio.sleep(0)  # other requests' turn
    return found, cursor


def _preview(suspension: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a suspension with the beginning of its data, in which a search looks too."""
    return suspension_preview(suspension, PreviewBudget(ROW_NODES, ROW_CHARACTERS))


def _matches(suspension: Mapping[str, Any], words: list[str]) -> bool:
    """Whether every word occurs in what the suspension shows, or starts its execution id."""
    shown = json.dumps(suspension["data"], ensure_ascii=False)
    text = f"{suspension['step_key']} {suspension['workflow_id']} {shown}".casefold()
    execution_id = suspension["execution_id"]
    return all(
        word in text or (len(word) >= MIN_ID_CHARACTERS and execution_id.startswith(word)) for word in words
    )


def _row(suspension: Mapping[str, Any]) -> dict[str, Any]:
    found = summary(suspension)
    return {
        **suspension,
        "title": found.title,
        "lead": (found.data_title or found.lead)[:200],
        "gist": gist(found),
        "approvals": sum(verdict(one["data"]) is True for one in suspension["decisions"]),
    }
