"""Schedules: start workflows by cron expressions, and pause, resume or delete that.

Workers fire the ticks (`triggers/ticks.py`) of the stored schedules (`triggers/stored_schedule.py`).
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from polos_redis.connection.clients import takes_client
from polos_redis.connection.connection import Connection
from polos_redis.definitions.cron import Declared, check_key
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.published import definition_of
from polos_redis.errors import ConfigurationError, InternalWorkflowError, ScheduleNotFoundError
from polos_redis.state import keys
from polos_redis.triggers import stored_schedule
from polos_redis.triggers.stored_schedule import StoredSchedule
from polos_redis.triggers.ticks import SchedulePayload
from polos_redis.values.times import to_datetime

__all__ = ["Schedule", "SchedulePayload", "create", "delete", "get", "list", "pause", "resume"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it is now.

    `declared` is true if the workflow's decorator declares it. `last_at` is the last tick fired; `next_at` is
    the next one, None while the schedule is paused.
    """

    id: str
    workflow_id: str
    cron: str
    timezone: str
    key: str
    declared: bool
    paused: bool
    created_at: datetime
    last_at: datetime | None
    next_at: datetime | None

    @classmethod
    def _of(cls, schedule_id: str, packed: bytes) -> Schedule:
        stored = StoredSchedule.unpack(packed)
        return cls(
            id=schedule_id,
            workflow_id=stored.workflow,
            cron=stored.cron,
            timezone=stored.timezone,
            key=stored.key,
            declared=stored.declared,
            paused=stored.paused,
            created_at=to_datetime(stored.created),
            last_at=None if stored.last is None else to_datetime(stored.last),
            next_at=None if stored.next is None else to_datetime(stored.next),
        )


@takes_client
async def create(
    client: Connection,
    workflow: WorkflowDefinition[Any, Any] | str,
    cron: str,
    timezone: str = "UTC",
    key: str = "global",
) -> str:
    """Create a schedule that starts executions of a workflow; return its id.

    `cron` has five fields, or six with seconds first. A workflow has one schedule per key: another call with
    the same key changes the expression and the time zone, and leaves a paused schedule paused. The first tick
    is the next one from now.

    Raises `ConfigurationError` for an invalid expression, time zone or key, and for a workflow with
    `schedule=False`; `InternalWorkflowError` for an internal one.
    """
    workflow_id = workflow.id if isinstance(workflow, WorkflowDefinition) else workflow
    keys.check_text("a workflow's id", workflow_id, error=ConfigurationError)
    store = await client.store()
    definition = await definition_of(store, workflow)
    if definition.internal:
        raise InternalWorkflowError(workflow_id)
    if not definition.schedulable:
        raise ConfigurationError(f"workflow {workflow_id!r} has schedule=False: it can't be scheduled")
    new = Declared(cron, timezone, check_key(key))
    return await stored_schedule.put(store, workflow_id, new, declared=False)


@takes_client
async def get(client: Connection, schedule_id: str) -> Schedule:
    """Return a schedule. Raises `ScheduleNotFoundError`."""
    _, packed = await (await client.store()).schedules.read(schedule_id)
    if not packed:
        raise ScheduleNotFoundError(schedule_id)
    return Schedule._of(schedule_id, packed)


@takes_client
async def pause(client: Connection, schedule_id: str) -> None:
    """Pause a schedule until `resume`. A paused schedule has no ticks, so none are missed.

    Raises `ScheduleNotFoundError`.
    """
    await _change(client, schedule_id, lambda stored, now: replace(stored, paused=True, next=None))


@takes_client
async def resume(client: Connection, schedule_id: str) -> None:
    """Resume a paused schedule; its next tick is the first from now on. Raises `ScheduleNotFoundError`."""

    def resumed(stored: StoredSchedule, now: int) -> StoredSchedule:
        return replace(stored, paused=False, next=stored.ticks.after(now)) if stored.paused else stored

    await _change(client, schedule_id, resumed)


@takes_client
async def delete(client: Connection, schedule_id: str) -> None:
    """Delete a schedule; executions that it has started continue.

    The next worker that starts creates a declared schedule again: pause such a schedule instead. Raises
    `ScheduleNotFoundError`.
    """
    await _change(client, schedule_id, lambda stored, now: None)


@takes_client
async def list(  # noqa: A001 - schedules.list
    client: Connection, workflow: WorkflowDefinition[Any, Any] | str | None = None
) -> builtins.list[Schedule]:
    """Return all schedules, or those of a workflow, sorted by workflow and key."""
    workflow_id = workflow.id if isinstance(workflow, WorkflowDefinition) else workflow
    stored = await (await client.store()).schedules.read_all()
    schedules = [Schedule._of(schedule_id, packed) for schedule_id, packed in stored.items()]
    chosen = [schedule for schedule in schedules if workflow_id in (None, schedule.workflow_id)]
    return sorted(chosen, key=lambda schedule: (schedule.workflow_id, schedule.key))


async def _change(
    client: Connection, schedule_id: str, change: Callable[[StoredSchedule, int], StoredSchedule | None]
) -> None:
    """Apply a change to a stored schedule; None deletes it."""
    store = await client.store()
    tried = False
    while True:
        now, seen = await store.schedules.read(schedule_id)
        if not seen and tried:
            return  # deleted: by this call, whose reply was lost, or by another
        if not seen:
            raise ScheduleNotFoundError(schedule_id)
        stored = StoredSchedule.unpack(seen)
        changed = change(stored, now)
        packed, due = (b"", None) if changed is None else (changed.pack(), changed.next)
        if changed == stored or await store.schedules.change(schedule_id, seen, packed, due):
            return
        tried = True
