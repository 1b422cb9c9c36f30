"""Queries: executions, suspensions and audits, as plain JSON values."""

from __future__ import annotations

import asyncio
from typing import Any

from polos_redis import errands
from polos_redis.connection.connection import Connection
from polos_redis.decisions import audit as audit_log
from polos_redis.decisions.suspensions import StoredSuspension, find_below, read_suspensions
from polos_redis.decisions.views import suspension_view
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import (
    ConfigurationError,
    ExecutionNotFoundError,
    SuspensionNotFoundError,
    UnreadableValueError,
)
from polos_redis.executions import views
from polos_redis.executions.page import Page
from polos_redis.state import journal, keys
from polos_redis.state.executions import STATUSES
from polos_redis.state.journal import SuspensionRecord
from polos_redis.state.store import Store
from polos_redis.values.text import text
from polos_redis.values.times import iso

LIST_LIMIT = 1000


async def get_execution(connection: Connection, execution_id: str) -> dict[str, Any]:
    """See `PolosClient.get_execution`."""
    store = await connection.store()
    fields, records = await asyncio.gather(
        store.executions.read(execution_id), store.executions.read_journal(execution_id)
    )
    if "workflow" not in fields:
        raise ExecutionNotFoundError(execution_id)
    view = views.describe(execution_id, fields, records)
    view["early_answers"] = await _early_answers(store, execution_id) if "early" in fields else []
    below: list[tuple[str, str]] = []
    if keys.root_of(execution_id) == execution_id:
        below = (await store.suspensions.open_below(execution_id))[: views.MAX_CHILDREN]
    rows = await read_suspensions(store, below)
    view["open_suspensions_below"] = [suspension_view(*row) for row in rows if row[2].status == "open"]
    children = view["children"]
    current = await asyncio.gather(
        *(store.executions.read_fields(child["id"], "workflow", "status") for child in children)
    )
    for child, (workflow, status) in zip(children, current, strict=True):
        child["workflow_id"] = text(workflow) or None
        child["status"] = text(status) or child["status"]
    return view


async def _early_answers(store: Store, execution_id: str) -> list[dict[str, Any]]:
    """Returns the answers that came before their suspensions and have not been used, as JSON values. `errand`
    is the work of checking one, if that has failed."""
    early = await store.suspensions.early_answers(execution_id)
    names = [f"y{execution_id} {step_key}" for step_key in early]
    failed = await store.errands.failures_of(store.partitions.prefix(execution_id), names)
    return [
        {
            "step_key": step_key,
            "resumed_by": None if answer is None else answer.by or None,
            "channel": None if answer is None else answer.channel,
            "errand": None if one is None else errands.describe(one),
        }
        for (step_key, answer), one in zip(early.items(), failed, strict=True)
    ]


async def list_executions(
    connection: Connection,
    *,
    status: str | None = None,
    workflow: str | WorkflowDefinition[Any, Any] | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[dict[str, Any]]:
    """See `PolosClient.list_executions`."""
    if status is not None and status not in STATUSES:
        raise ConfigurationError(f"status must be one of {', '.join(STATUSES)}, not {status!r}")
    before = "+inf" if cursor is None else str(_cursor(cursor))
    limit = _limit(limit)
    statuses = STATUSES if status is None else (status,)
    store = await connection.store()
    rows = await store.executions.newest(statuses, _workflow_id(workflow), before, limit)
    page = [
        {
            "id": text(row[0]),
            "workflow_id": text(row[1]),
            "status": text(row[2]),
            "created_at": iso(int(row[3]) / 1000),
            "started_at": iso(int(row[4] or 0)),
            "finished_at": iso(int(row[5] or 0)),
        }
        for row in rows
        if row[1] is not None
    ]
    return Page(page, text(rows[-1][3]) if len(rows) == limit else None)


async def list_suspensions(
    connection: Connection,
    *,
    workflow: str | WorkflowDefinition[Any, Any] | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[dict[str, Any]]:
    """See `PolosClient.list_suspensions`."""
    after = "-inf" if cursor is None else str(_cursor(cursor))
    limit, workflow_id = _limit(limit), _workflow_id(workflow)
    count = LIST_LIMIT if workflow_id else limit  # rows of other workflows are skipped
    store = await connection.store()
    page: list[dict[str, Any]] = []
    while True:
        rows = await store.suspensions.oldest_open(after, count)
        at_end = len(rows) < count
        for index, row in enumerate(rows):
            after = text(row[3])
            if workflow_id and text(row[2]) != workflow_id:
                continue
            view = _open_suspension(row)
            if view is not None:
                page.append(view)
            if len(page) == limit:
                return Page(page, None if at_end and index == len(rows) - 1 else after)
        if at_end:
            return Page(page, None)


def _open_suspension(row: list[Any]) -> dict[str, Any] | None:
    """A row of `oldest_open` as JSON values; None for one that can't be read, so it doesn't hide the others.
    `get_execution` reports it."""
    execution_id, step_key, workflow_id, _, packed = row
    try:
        record = None if packed is None else journal.parse(packed)
    except UnreadableValueError:
        return None
    if not isinstance(record, SuspensionRecord):
        return None
    return {**suspension_view(text(execution_id), text(step_key), record), "workflow_id": text(workflow_id)}


async def get_suspension(connection: Connection, execution_id: str, step_key: str) -> dict[str, Any]:
    """See `PolosClient.get_suspension`."""
    _, view = await read_suspension(connection, execution_id, step_key)
    return view


async def read_suspension(
    connection: Connection, execution_id: str, step_key: str
) -> tuple[StoredSuspension, dict[str, Any]]:
    """Returns a suspension as an answer is checked against it, and as `get_suspension` returns it."""
    store = await connection.store()
    fields, found = await asyncio.gather(
        store.executions.read_fields(execution_id, "workflow", "status", "origin"),
        read_suspensions(store, [(execution_id, step_key)]),
    )
    workflow, status, origin = fields
    if workflow is None:
        raise ExecutionNotFoundError(execution_id)
    if found:
        around = views.suspended_execution(execution_id, workflow, status, origin)
        return StoredSuspension(*found[0], origin), {**suspension_view(*found[0]), **around}
    below = await find_below(store, execution_id, step_key)
    if below is not None:
        return await read_suspension(connection, below, step_key)
    others = (await get_execution(connection, execution_id))["open_suspensions"]
    raise SuspensionNotFoundError(execution_id, step_key, [one["step_key"] for one in others])


async def audit(connection: Connection, execution_id: str) -> list[dict[str, Any]]:
    """See `PolosClient.audit`."""
    store = await connection.store()
    stored = await store.suspensions.audit(keys.root_of(execution_id))
    found = audit_log.entries(stored, execution_id)
    if not found and (await store.executions.read_fields(execution_id, "status"))[0] is None:
        raise ExecutionNotFoundError(execution_id)
    return found


def _workflow_id(workflow: str | WorkflowDefinition[Any, Any] | None) -> str:
    return workflow.id if isinstance(workflow, WorkflowDefinition) else workflow or ""


def _limit(limit: int) -> int:
    if not isinstance(limit, int) or not 1 <= limit <= LIST_LIMIT:
        raise ConfigurationError(f"limit must be an integer from 1 to {LIST_LIMIT}, not {limit!r}")
    return limit


def _cursor(cursor: str) -> int:
    try:
        return int(cursor)
    except (TypeError, ValueError):
        raise ConfigurationError(f"cursor must be the next_cursor of a page, not {cursor!r}") from None
