"""The page of one execution: timeline, open decisions, input, result, steps, children, audit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from polos_redis import settings
from polos_redis.client import PolosClient
from polos_redis.decisions.answer_types import verdict
from polos_redis.definitions.published import definition_of
from polos_redis.errors import (
    ExecutionFinishedError,
    ExecutionNotFoundError,
    InvalidInputError,
    NotFailedError,
    NotSkippableError,
)
from polos_redis.executions import ending
from polos_redis.executions.ending import LONGEST_REASON, MOST_SKIPPED
from polos_redis.executions.queries import audit_tail, get_execution
from polos_redis.results import Execution, ExecutionChild
from polos_redis.server.pages.page_route import PageRoute
from polos_redis.server.pages.posted import posted
from polos_redis.server.pages.previews import (
    CHARACTERS,
    NODES,
    answer_preview,
    page_budget,
    shown,
    suspension_preview,
)
from polos_redis.server.pages.rendering import redirect, render
from polos_redis.server.pages.shown_values import as_json
from polos_redis.server.pages.suspension_summary import outcome
from polos_redis.server.pages.timeline import ENDED, timeline
from polos_redis.server.pages.visitors import visitor
from polos_redis.server.sessions import sessions_of
from polos_redis.server.site import site_of
from polos_redis.server.stored_json import StoredJson
from polos_redis.values.preview import PreviewBudget, Stored
from polos_redis.values.text import text
from polos_redis.values.times import iso

MAX_CHILDREN = 100
MAX_OPEN = 100  # links to open decisions
MAX_UNREACHED = 50  # decisions that a stuck execution's code passes over
MAX_NEWEST = 200  # steps, decisions, audit entries
PART_NODES = 200  # values shown of one step's value, or of one suspension's data
PART_CHARACTERS = 20_000  # of their texts

ANOTHER = "the execution of this id is no longer the one your page showed. Check this page, then try again."

router = APIRouter(route_class=PageRoute)


@router.api_route("/executions/{execution_id}", methods=["GET", "HEAD"])
async def show(request: Request, execution_id: str, format: str = "") -> Response:
    await visitor(request)
    if format == "json":
        return StoredJson(await get_execution(site_of(request).client, execution_id, Stored))
    return await _page(request, execution_id)


@router.post("/executions/{execution_id}/cancel")
async def cancel(request: Request, execution_id: str) -> Response:
    name, created = await _authorized(request)
    try:
        await ending.cancel(site_of(request).client, execution_id, cancelled_by=name, created=created)
    except ExecutionNotFoundError:
        return await _page(request, execution_id, f"Not cancelled: {ANOTHER}", 409)
    except ExecutionFinishedError as error:
        return await _page(
            request, execution_id, f"Not cancelled: this execution already ended: it is {error.status}.", 409
        )
    return redirect(f"/executions/{execution_id}")


@router.post("/executions/{execution_id}/retry")
async def retry(request: Request, execution_id: str) -> Response:
    name, created = await _authorized(request)
    sent = await _form(request)
    skip, reason = [str(key) for key in sent.getlist("skip")], str(sent.get("reason", "")).strip()
    if skip:
        await visitor(request, "admin")
    try:
        await ending.retry(
            site_of(request).client,
            execution_id,
            skip=skip,
            reason=reason or None,
            by=name,
            created=created,
        )
    except ExecutionNotFoundError:
        return await _page(request, execution_id, f"Not retried: {ANOTHER}", 409)
    except NotSkippableError as error:
        notice = f"Not retried: {error.step_key} has no accepted answer that could be skipped."
        return await _page(request, execution_id, notice, 409)
    except InvalidInputError:
        notice = "Not retried: choose the answers to skip, and say why."
        return await _page(request, execution_id, notice, 422)
    except NotFailedError as error:
        return await _page(
            request,
            execution_id,
            f"Not retried: this execution is {error.status}, not failed, stuck or paused.",
            409,
        )
    return redirect(f"/executions/{execution_id}")


async def _authorized(request: Request) -> tuple[str | None, str]:
    """Returns the name of a caller whose form may change something, and the creation time of the execution
    that they saw. Raises `Problem` 401 or 403."""
    caller = await visitor(request, "invoke")
    sent = await _form(request)
    sessions_of(request).check_form(request, str(sent.get("form_token", "")))
    return caller.name, str(sent.get("created", "")) or "unknown"


async def _form(request: Request) -> FormData:
    return await posted(request, controls=MOST_SKIPPED + 10, large=True)


async def _page(request: Request, execution_id: str, notice: str = "", status: int = 200) -> Response:
    caller = request.state.caller
    client = site_of(request).client
    (created,) = await (await client.store()).executions.read_fields(execution_id, "created")
    found = await get_execution(client, execution_id, Stored)
    trail, earlier = await audit_tail(client, execution_id, MAX_NEWEST, _audited)
    waiting = found.open_suspensions + found.open_suspensions_below
    left = found.left_out
    hidden = {
        "children": max(0, len(found.children) - MAX_CHILDREN) + left["children"],
        "waiting": len(waiting) - MAX_OPEN,
        "unreached": 0 if found.stuck is None else len(found.stuck.passed_over) - MAX_UNREACHED,
        "steps": max(0, len(found.steps) - MAX_NEWEST) + left["steps"],
        "suspensions": max(0, len(found.suspensions) - MAX_NEWEST) + left["suspensions"],
        "audit": earlier,
    }
    execution = _preview(found, page_budget())
    execution["children"] = await _with_times(client, found.children[:MAX_CHILDREN])
    bars = timeline({**execution, "steps": found.steps})
    over = execution["status"] in ENDED
    internal = (await definition_of(await client.store(), execution["workflow_id"])).internal
    word = execution["status"]
    retriable = word in ("stuck", "paused") or (word == "failed" and not internal)
    return render(
        request,
        "execution.html",
        {
            "execution": execution,
            "created": text(created),
            "waiting": waiting[:MAX_OPEN],
            "passed_over": [] if execution["stuck"] is None else execution["stuck"].passed_over,
            "timeline": bars,
            "hidden": hidden,
            "audit": trail,
            "json": as_json,
            "outcome": outcome,
            "verdict": verdict,
            "notice": notice,
            "over": over,
            "can_cancel": not over and caller.may("invoke"),
            "can_retry": retriable and caller.may("invoke"),
            "can_skip": retriable and caller.may("admin"),
            "longest_reason": LONGEST_REASON,
            "limit": None if over else _limit_of_a_long_journal(found.records),
        },
        status=status,
    )


def _limit_of_a_long_journal(records: int) -> int | None:
    """Returns how many records a journal may have, if it is long."""
    limit: int = settings.resolve("max_journal_records")
    return limit if records > settings.long_journal(limit) else None


def _audited(stored: bytes | None) -> Any:
    """The preview of an answer in the audit, made while the audit is read, so that few answers are held."""
    return answer_preview(Stored(stored), PreviewBudget(10, 1000))


def _preview(found: Execution, budget: PreviewBudget) -> dict[str, Any]:
    """Returns an execution with previews of its values: the outcome first, then the newest steps and
    decisions."""
    outcomes = {
        name: shown(found[name], budget, NODES // 4, CHARACTERS // 4) for name in ("result", "input", "state")
    }
    stuck = found.stuck and replace(
        found.stuck,
        passed_over=[
            replace(one, data=answer_preview(one.data, budget))
            for one in found.stuck.passed_over[:MAX_UNREACHED]
        ],
    )
    steps = [
        replace(step, value=shown(step.value, budget, PART_NODES, PART_CHARACTERS))
        for step in reversed(found.steps[-MAX_NEWEST:])
    ]
    suspensions = [
        suspension_preview(one, budget, nodes=PART_NODES, characters=PART_CHARACTERS)
        for one in reversed(found.suspensions[-MAX_NEWEST:])
    ]
    running = [
        replace(step, progress=shown(step.progress, budget, PART_NODES, PART_CHARACTERS))
        for step in found.running_steps
    ]
    return {
        **found,
        **outcomes,
        "stuck": stuck,
        "steps": steps[::-1],
        "suspensions": suspensions[::-1],
        "running_steps": running,
    }


async def _with_times(client: PolosClient, children: Sequence[ExecutionChild]) -> list[dict[str, Any]]:
    store = await client.store()
    rows = await asyncio.gather(
        *(store.executions.read_fields(one.id, "created", "finished") for one in children)
    )
    return [
        {
            **one,
            "created_at": iso(int(created) / 1000 if created else None),
            "finished_at": iso(int(finished) if finished else None),
        }
        for one, (created, finished) in zip(children, rows, strict=True)
    ]
