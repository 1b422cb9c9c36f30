"""Queries: executions, suspensions and audits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from typing import Any, TypeVar, cast

from polos_redis import errands
from polos_redis.connection.connection import Connection
from polos_redis.decisions import audit as audit_log
from polos_redis.decisions.suspensions import StoredSuspension, find_below, read_suspensions
from polos_redis.decisions.views import Read, step_keys, suspension_view
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import (
    ConfigurationError,
    ExecutionNotFoundError,
    SuspensionNotFoundError,
    UnreadableValueError,
)
from polos_redis.executions import views
from polos_redis.executions.journal_entries import MAX_CHILDREN, JournalEntries
from polos_redis.executions.page import Page
from polos_redis.executions.status_text import is_unserved
from polos_redis.executions.statuses import status_view
from polos_redis.results import (
    AuditEntry,
    EarlyAnswer,
    Execution,
    ExecutionChild,
    ExecutionStatus,
    ExecutionSummary,
    LoopBlock,
    Suspension,
    SuspensionDetails,
)
from polos_redis.state import journal, keys
from polos_redis.state.executions import FINISHED, STORED_STATUSES, Place
from polos_redis.state.journal import SuspensionRecord
from polos_redis.state.origin import Origin
from polos_redis.state.statuses import STATUSES, UNFINISHED, Condition
from polos_redis.state.store import Store
from polos_redis.state.stored_errors import ErrorRecord, parse_error
from polos_redis.state.suspensions import MOST_BYTES
from polos_redis.tasks import Slices
from polos_redis.values.plain import readable
from polos_redis.values.preview import Stored
from polos_redis.values.text import raw, text
from polos_redis.values.times import iso

LIST_LIMIT = 1000
MOST_EMPTY = 10  # pages without a row that are read before an empty one is returned
AUDIT_PAGE = 20  # entries per call
MOST_WAITS = 100  # that one execution is said to wait for
MOST_BYTES_BELOW = 1 << 24  # of what open suspensions of descendants show

T = TypeVar("T")


async def get_execution(connection: Connection, execution_id: str, read: Read = readable) -> Execution:
    """See `PolosClient.get_execution`. `read` makes plain JSON of stored values."""
    store = await connection.store()
    fields = await store.executions.read(execution_id)
    if "workflow" not in fields:
        raise ExecutionNotFoundError(execution_id)
    workflow_id = text(fields["workflow"])
    since_run = views.origin_of(workflow_id, fields.get("origin")).since_run
    entries, slices = JournalEntries(execution_id, workflow_id, since_run, read), Slices()
    async for page in store.executions.journal_pages(execution_id):
        for name, stored in page:
            entries.add(name, stored)
            await slices.pause()
    word = text(fields["status"])
    condition: Condition | None
    if word in FINISHED:
        condition = Condition(
            word,
            text(fields["workflow"]),
            cancelled_by=text(fields.get("cancelled_by")) or None,
            error=_error(fields.get("error")),
        )
    else:
        condition = (await store.statuses.read([execution_id], MOST_WAITS)).get(execution_id)
        if condition is None or condition.word not in UNFINISHED:  # it has ended since, or was deleted
            return await get_execution(connection, execution_id, read)
    keeps_early = "early" in fields and word not in FINISHED
    return views.describe(
        execution_id,
        fields,
        entries,
        read,
        condition=condition,
        children=await _children(store, entries.children()),
        unserved=condition.word == "queued" and await is_unserved(store, execution_id, workflow_id),
        blocked_loop=await _blocked_loop(store, execution_id, condition.worker),
        early_answers=await _early_answers(store, execution_id) if keeps_early else [],
        open_suspensions_below=await _open_suspensions_below(store, execution_id, read, slices),
    )


async def _children(store: Store, children: list[ExecutionChild]) -> list[ExecutionChild]:
    """Returns children with their workflows and statuses; of more than `MAX_CHILDREN`, the later ones keep
    the status that the journal has."""
    first = children[:MAX_CHILDREN]
    current = await store.statuses.read([child.id for child in first], 0)
    found = []
    for child in first:
        condition = current.get(child.id)
        if condition is None:
            found.append(replace(child, workflow_id=None))
        else:
            status = cast("ExecutionStatus", condition.word)
            found.append(replace(child, workflow_id=condition.workflow_id, status=status))
    return found + children[MAX_CHILDREN:]


async def _open_suspensions_below(
    store: Store, execution_id: str, read: Read, slices: Slices
) -> list[Suspension]:
    """Returns the open suspensions of a root's descendants, as many as fit into an answer."""
    if keys.root_of(execution_id) != execution_id:
        return []
    below = await store.suspensions.open_below(execution_id, MAX_CHILDREN)
    ids = list({one for one, _ in below})
    rows = await asyncio.gather(
        *(store.executions.read_fields(one, "workflow", "unreached_waits") for one in ids)
    )
    around = {
        one: (text(workflow), step_keys(packed)) for one, (workflow, packed) in zip(ids, rows, strict=True)
    }
    found: list[Suspension] = []
    size = 0
    async for one, step_key, record in read_suspensions(store, below):
        if record.status == "open" and size <= MOST_BYTES_BELOW:
            workflow_id, unreached = around[one]
            found.append(
                suspension_view(one, workflow_id, step_key, record, read, unreached=step_key in unreached)
            )
            size += len(record.shown)
            await slices.pause()
    return found


async def _blocked_loop(store: Store, execution_id: str, worker: str | None) -> LoopBlock | None:
    """Returns what blocks the event loop of the worker that runs an execution, as the worker has said."""
    if worker is None:
        return None
    facts = await store.workers.facts(store.partitions.prefix(execution_id), worker)
    blocked = facts.get("blocked")
    if blocked is None:
        return None
    by_itself = blocked.get("execution") == execution_id
    return LoopBlock(
        by_itself=by_itself,
        step_key=blocked.get("step") if by_itself else None,
        at=blocked.get("at") if by_itself else None,
        seconds=blocked["seconds"],
    )


async def _early_answers(store: Store, execution_id: str) -> list[EarlyAnswer]:
    """Returns the answers that came before their suspensions and have not been used."""
    early = await store.suspensions.early_answers(execution_id)
    names = [f"y{execution_id} {step_key}" for step_key in early]
    failed = await store.errands.failures_of(store.partitions.prefix(execution_id), names)
    return [
        EarlyAnswer(
            step_key=step_key,
            resumed_by=None if answer is None else answer.by or None,
            channel=None if answer is None else answer.channel,
            errand=None if one is None else errands.describe(one),
        )
        for (step_key, answer), one in zip(early.items(), failed, strict=True)
    ]


async def list_executions(
    connection: Connection,
    *,
    status: str | None = None,
    workflow: str | WorkflowDefinition[Any, Any] | None = None,
    limit: int = 50,
    cursor: str | None = None,
    roots: Collection[str] = (),
) -> Page[ExecutionSummary]:
    """See `PolosClient.list_executions`. With `roots`, the page is restricted to executions whose root is of
    one of these workflows; without a `workflow`, to those that are themselves of one of these, too."""
    if status is not None and status not in STATUSES:
        raise ConfigurationError(f"status must be one of {', '.join(STATUSES)}, not {status!r}")
    before = None if cursor is None else _place(cursor)
    limit = _limit(limit)
    wanted = STORED_STATUSES if status is None else (status,)
    store = await connection.store()
    for _ in range(MOST_EMPTY):
        rows, before = await store.executions.newest(wanted, _workflow_id(workflow), before, limit, roots)
        page = await _summaries(store, rows)
        if status is not None:  # one that has got another status meanwhile is listed no more
            page = [one for one in page if one.status == status]
        if page or before is None:
            break
    return Page(page, None if before is None else f"{before[0]}-{text(before[1])}")


async def _summaries(store: Store, rows: list[list[Any]]) -> list[ExecutionSummary]:
    """Returns the executions in rows of `newest`, without those that are deleted meanwhile."""
    kept = ("completed", "failed")  # their rows say all but the error
    others = [text(row[0]) for row in rows if text(row[2]) not in kept]
    failed = [text(row[0]) for row in rows if row[2] == b"failed"]
    current = await store.statuses.read(others) if others else {}
    fields = await asyncio.gather(*(store.executions.read_fields(one, "error") for one in failed))
    errors = {one: _error(packed) for one, (packed,) in zip(failed, fields, strict=True)}
    found = []
    for row in rows:
        execution_id, workflow_id, stored = text(row[0]), text(row[1]), text(row[2])
        if stored in kept:
            times = int(row[3]), int(row[4] or 0), int(row[5] or 0)
            condition = Condition(stored, workflow_id, *times, error=errors.get(execution_id))
        elif execution_id in current:
            condition = current[execution_id]
        else:
            continue
        found.append(
            ExecutionSummary(
                id=execution_id,
                workflow_id=workflow_id,
                created_at=iso((condition.created_us or 0) / 1000),
                started_at=iso(condition.started_ms),
                finished_at=iso(condition.finished_ms),
                version=text(row[7]) or None,
                **status_view(condition),
            )
        )
    return found


def _error(packed: bytes | None) -> ErrorRecord | None:
    return None if packed is None else parse_error(packed)


async def list_suspensions(
    connection: Connection,
    *,
    workflow: str | WorkflowDefinition[Any, Any] | None = None,
    limit: int = 50,
    cursor: str | None = None,
    roots: Collection[str] = (),
    read: Read = readable,
) -> Page[Suspension]:
    """See `PolosClient.list_suspensions`. `roots` as in `list_executions`. `read` makes plain JSON of stored
    values."""
    after = "-inf" if cursor is None else str(_cursor(cursor))
    store = await connection.store()
    rows, next_cursor = await store.suspensions.oldest_open(
        after, _limit(limit), _workflow_id(workflow), roots
    )
    found, slices = [], Slices()
    for row in rows:
        view = _open_suspension(row, read)
        if view is not None:
            found.append(view)
        await slices.pause()
    return Page(found, next_cursor)


def _open_suspension(row: list[Any], read: Read) -> Suspension | None:
    """A row of `oldest_open`; None for one that can't be read, so it doesn't hide the others. `get_execution`
    reports it."""
    execution_id, step_key, workflow_id, _, packed, unreached = row
    try:
        record = None if packed is None else journal.parse(packed)
    except UnreadableValueError:
        return None
    if not isinstance(record, SuspensionRecord):
        return None
    return suspension_view(
        text(execution_id), text(workflow_id), text(step_key), record, read, unreached=bool(unreached)
    )


async def get_suspension(connection: Connection, execution_id: str, step_key: str) -> SuspensionDetails:
    """See `PolosClient.get_suspension`."""
    _, view = await read_suspension(connection, execution_id, step_key)
    return view


async def read_suspension(
    connection: Connection, execution_id: str, step_key: str, read: Read = readable
) -> tuple[StoredSuspension, SuspensionDetails]:
    """Returns a suspension as an answer is checked against it, and as `get_suspension` returns it. `read`
    makes plain JSON of stored values."""
    store = await connection.store()
    fields, statuses, found = await asyncio.gather(
        store.executions.read_fields(execution_id, "workflow", "origin", "created", "unreached_waits"),
        store.statuses.read([execution_id], 0),
        _listed(read_suspensions(store, [(execution_id, step_key)])),
    )
    workflow, origin, created, unreached = fields
    if workflow is None or execution_id not in statuses:
        raise ExecutionNotFoundError(execution_id)
    if found:
        ((_, _, record),) = found
        view = suspension_view(
            execution_id,
            text(workflow),
            step_key,
            record,
            read,
            unreached=step_key in step_keys(unreached),
        )
        details = views.suspension_details(view, statuses[execution_id].word, origin, created)
        return StoredSuspension(execution_id, step_key, record, origin), details
    below = await find_below(store, execution_id, step_key)
    if below is not None:
        return await read_suspension(connection, below, step_key, read)
    others = (await get_execution(connection, execution_id, Stored)).open_suspensions
    raise SuspensionNotFoundError(execution_id, step_key, [one.step_key for one in others])


async def root_workflow(connection: Connection, execution_id: str) -> str | None:
    """Returns the workflow of an execution's root; None if nothing is known of the execution.

    Of a deleted execution, the audit still knows it if the root itself was decided on.
    """
    store, root_id = await connection.store(), keys.root_of(execution_id)
    workflow, origin = await store.executions.read_fields(execution_id, "workflow", "origin")
    if workflow is not None:
        return Origin.unpack(text(workflow), origin).root_workflow_id
    _, stored = await store.suspensions.audit(root_id, 0, AUDIT_PAGE)
    for packed in stored:
        entry = audit_log.entry(packed)
        if entry.execution_id == root_id:
            return entry.workflow_id
    return None


async def audit(connection: Connection, execution_id: str, read: Read = readable) -> list[AuditEntry]:
    """See `PolosClient.audit`. `read` makes plain JSON of stored values."""
    page = await audit_page(connection, execution_id, read=read)
    found = list(page)
    while page.next_cursor is not None:
        page = await audit_page(connection, execution_id, cursor=page.next_cursor, read=read)
        found += page
    return found


async def audit_page(
    connection: Connection,
    execution_id: str,
    *,
    limit: int = LIST_LIMIT,
    cursor: str | None = None,
    read: Read = readable,
) -> Page[AuditEntry]:
    """Returns a page of the audit, oldest first. Like other pages it may be short, or empty, and yet have a
    `next_cursor`. Raises `ExecutionNotFoundError`."""
    store, root_id = await connection.store(), keys.root_of(execution_id)
    first = at = 0 if cursor is None else _cursor(cursor)
    found: list[AuditEntry] = []
    size, slices = 0, Slices()
    while True:
        total, stored = await store.suspensions.audit(root_id, at, AUDIT_PAGE)
        for packed in stored:
            found += audit_log.entries([packed], execution_id, read)
            await slices.pause()
            size, at = size + len(packed), at + 1
            if len(found) == limit or size > MOST_BYTES or at == first + LIST_LIMIT:
                return Page(found, str(at))
        if at >= total:
            break
    if (
        cursor is None
        and not found
        and (await store.executions.read_fields(execution_id, "status"))[0] is None
    ):
        raise ExecutionNotFoundError(execution_id)
    return Page(found, None)


async def audit_tail(
    connection: Connection, execution_id: str, most: int, read: Read
) -> tuple[list[AuditEntry], int]:
    """Returns the newest entries of the audit, oldest first, and how many earlier ones are left out. Of a
    descendant, only those among the newest of its root are found."""
    store, root_id = await connection.store(), keys.root_of(execution_id)
    total, _ = await store.suspensions.audit(root_id, 0, 0)
    at = first = max(0, total - (most if root_id == execution_id else LIST_LIMIT))
    found: list[AuditEntry] = []
    while at < total:
        _, stored = await store.suspensions.audit(root_id, at, min(AUDIT_PAGE, total - at))
        if not stored:  # deleted meanwhile
            break
        found += audit_log.entries(stored, execution_id, read)
        at += len(stored)
    return found[-most:], first + max(0, len(found) - most)


async def _listed(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


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
        raise _no_cursor(cursor) from None


def _place(cursor: str) -> Place:
    """The place that a cursor of executions names: microseconds, and an execution's id."""
    found = re.fullmatch(r"(\d{1,18})-(.+)", cursor, re.ASCII) if isinstance(cursor, str) else None
    if found is None:
        raise _no_cursor(cursor)
    return int(found[1]), raw(found[2])


def _no_cursor(cursor: object) -> ConfigurationError:
    return ConfigurationError(f"cursor must be the next_cursor of a page, not {cursor!r}")
