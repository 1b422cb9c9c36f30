"""Ticks: the due times of schedules.

A schedule lives in the partition of its id, and so do the executions it starts. Starting a tick's execution
and setting the next tick is one atomic change, made by the partition's timer leader. The server's clock
decides. A tick that no worker fires within `MISSED_MS` is skipped, with a warning in the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime

from polos_redis.definitions.published import definition_of
from polos_redis.executions.starting import start_options
from polos_redis.state import keys
from polos_redis.state.schedules import TickExecution
from polos_redis.state.store import Store
from polos_redis.triggers.stored_schedule import StoredSchedule
from polos_redis.values import codec
from polos_redis.values.times import to_datetime
from polos_redis.values.validation import GeneratedInput

logger = logging.getLogger("polos.worker")

MISSED_MS = 60_000  # a tick this late is skipped
MAX_COUNTED = 1000  # missed ticks are counted up to this number
IN_A_ROW = 100  # ticks fired before other errands get their turn


@dataclass(frozen=True, slots=True)
class SchedulePayload(GeneratedInput):
    """The input of an execution that a schedule starts. Times are in UTC; `timezone` is the schedule's.

    `timestamp` is the time of the tick; the execution may start later. `last_timestamp` is the tick fired
    before it, None for the first. `upcoming` is the next tick.
    """

    timestamp: datetime
    last_timestamp: datetime | None
    timezone: str
    schedule_id: str
    key: str
    upcoming: datetime


async def fire(store: Store, retention_ms: int, schedule_id: str) -> int | None:
    """Fire the due ticks of a schedule; return the ms until the next one, None when there is none."""
    for _ in range(IN_A_ROW):
        now, seen = await store.schedules.read(schedule_id)
        schedule = StoredSchedule.unpack(seen) if seen else None
        if schedule is None or schedule.next is None:
            return None
        if schedule.next > now:
            return schedule.next - now
        if now - schedule.next > MISSED_MS:
            await _skip(store, schedule_id, seen, schedule, schedule.next, now)
        else:
            await _fire_one(store, schedule_id, seen, schedule, schedule.next, retention_ms)
    return 0


async def _fire_one(
    store: Store, schedule_id: str, seen: bytes, schedule: StoredSchedule, tick: int, retention_ms: int
) -> None:
    """Start the execution of one tick, unless the schedule has changed meanwhile."""
    after = schedule.ticks.after(tick)
    payload = SchedulePayload(
        timestamp=to_datetime(tick),
        last_timestamp=None if schedule.last is None else to_datetime(schedule.last),
        timezone=schedule.timezone,
        schedule_id=schedule_id,
        key=schedule.key,
        upcoming=to_datetime(after),
    )
    partition = keys.partition_of(schedule_id, store.partitions.number)
    execution_id = keys.id_in(partition, store.partitions.number, "tick", schedule_id, str(tick))
    definition = await definition_of(store, schedule.workflow)
    start = start_options(definition, schedule.workflow)
    packed = replace(schedule, last=tick, next=after).pack()
    execution = TickExecution(execution_id, schedule.workflow, codec.encode(payload), retention_ms, start)
    await store.schedules.change(schedule_id, seen, packed, after, execution)


async def _skip(
    store: Store, schedule_id: str, seen: bytes, schedule: StoredSchedule, first: int, now: int
) -> None:
    """Move a schedule past the ticks that were missed."""
    ticks = schedule.ticks
    tick, missed = first, 0
    while tick < now - MISSED_MS and missed < MAX_COUNTED:
        tick, missed = ticks.after(tick), missed + 1
    if tick < now - MISSED_MS:
        tick = ticks.after(now - MISSED_MS - 1)
    if await store.schedules.change(schedule_id, seen, replace(schedule, next=tick).pack(), tick):
        facts = {
            "schedule": schedule_id,
            "workflow": schedule.workflow,
            "key": schedule.key,
            "missed": missed if missed < MAX_COUNTED else f"{MAX_COUNTED} or more",
            "first": to_datetime(first).isoformat(),
            "next": to_datetime(tick).isoformat(),
        }
        logger.warning("a schedule's ticks were missed and are skipped", extra=facts)
