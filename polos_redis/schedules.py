"""Schedules: workflows that are begun by the clock.

A schedule lives in the partition of its id, and so do the executions it begins: a tick's execution and the
time of the next tick are one atomic change, made by whichever worker holds the partition's pump. The server's
clock counts. A tick that no worker has fired within `MISSED_MS` is missed: skipped, and the log says so.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgpack

from polos_redis.definitions.cron import Cron, Declared, check_key
from polos_redis.definitions.published import definition_of
from polos_redis.errors import ConfigurationError, ScheduleNotFoundError
from polos_redis.executions.starting import queue_of, start_options
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values import codec
from polos_redis.values.validation import GeneratedInput
from polos_redis.workflow import Workflow

if TYPE_CHECKING:
    from polos_redis.client import PolosClient

logger = logging.getLogger("polos.worker")

MISSED_MS = 60_000  # a tick this late is skipped
COUNTED = 1000  # missed ticks are counted up to here
IN_A_ROW = 100  # ticks fired before other errands have their turn


@dataclass(frozen=True, slots=True)
class SchedulePayload(GeneratedInput):
    """The input of an execution that a schedule has begun. Times are UTC; `timezone` is the schedule's.

    `timestamp` is the tick, not the moment of the begin; `last_timestamp` the tick that was fired before,
    None for the first; `upcoming` the next one.
    """

    timestamp: datetime
    last_timestamp: datetime | None
    timezone: str
    schedule_id: str
    key: str
    upcoming: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands. `declared`: by a workflow's decorator; `last_at`: the tick that was fired
    last; `next_at`: the next one, None while it is paused."""

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


async def create(
    client: PolosClient,
    workflow: Workflow[Any, Any] | str,
    cron: str,
    timezone: str = "UTC",
    key: str = "global",
) -> str:
    """Begin executions of a workflow by a cron expression; returns the schedule's id.

    There is one schedule for a workflow and a key: another call changes its expression and time zone and
    leaves it paused if it is. The first tick is the first one after now. Raises `ConfigurationError` for an
    expression, a time zone or a key that can't be used, and for a workflow with `schedule=False`.
    """
    workflow_id = workflow.id if isinstance(workflow, Workflow) else workflow
    if not isinstance(workflow_id, str) or not workflow_id:
        raise ConfigurationError(f"expected a workflow or a workflow's id, not {workflow!r}")
    store = await client.store()
    if not (await definition_of(store, workflow)).schedulable:
        raise ConfigurationError(f"workflow {workflow_id!r} has schedule=False: it is not to be scheduled")
    return await put(store, workflow_id, Declared(cron, timezone, check_key(key)), declared=False)


async def get(client: PolosClient, schedule_id: str) -> Schedule:
    """A schedule. Raises `ScheduleNotFoundError`."""
    _, packed = await (await client.store()).scheduled(schedule_id)
    if not packed:
        raise ScheduleNotFoundError(schedule_id)
    return StoredSchedule.unpack(packed).shown(schedule_id)


async def pause(client: PolosClient, schedule_id: str) -> None:
    """Let a schedule rest until `resume`: its ticks are not missed, there are none. Raises
    `ScheduleNotFoundError`."""
    await _change(client, schedule_id, lambda kept, now: replace(kept, paused=True, next=None))


async def resume(client: PolosClient, schedule_id: str) -> None:
    """Let a paused schedule go on, from now. Raises `ScheduleNotFoundError`."""

    def resumed(kept: StoredSchedule, now: int) -> StoredSchedule:
        return replace(kept, paused=False, next=kept.ticks.after(now)) if kept.paused else kept

    await _change(client, schedule_id, resumed)


async def delete(client: PolosClient, schedule_id: str) -> None:
    """Remove a schedule; what it has begun goes on. One that a workflow declares comes back with the next
    start of a worker that does: pause it instead. Raises `ScheduleNotFoundError`."""
    await _change(client, schedule_id, lambda kept, now: None)


async def list(  # noqa: A001 - schedules.list
    client: PolosClient, workflow: Workflow[Any, Any] | str | None = None
) -> builtins.list[Schedule]:
    """All schedules, or those of a workflow, by workflow and key."""
    wanted = workflow.id if isinstance(workflow, Workflow) else workflow
    found = await (await client.store()).schedules()
    schedules = [StoredSchedule.unpack(packed).shown(schedule_id) for schedule_id, packed in found.items()]
    chosen = [one for one in schedules if wanted is None or one.workflow_id == wanted]
    return sorted(chosen, key=lambda one: (one.workflow_id, one.key))


async def _change(
    client: PolosClient, schedule_id: str, change: Callable[[StoredSchedule, int], StoredSchedule | None]
) -> None:
    store = await client.store()
    tried = False
    while True:
        now, seen = await store.scheduled(schedule_id)
        if not seen and tried:
            return  # removed: by this very call, whose reply was lost, or by another
        if not seen:
            raise ScheduleNotFoundError(schedule_id)
        kept = StoredSchedule.unpack(seen)
        changed = change(kept, now)
        packed, due = (b"", None) if changed is None else (changed.pack(), changed.next)
        if changed == kept or await store.schedule(schedule_id, seen, packed, due):
            return
        tried = True


# --- what workers do --------------------------------------------------------------------


async def put(store: Store, workflow_id: str, wanted: Declared, *, declared: bool) -> str:
    """Create a schedule, or change it to what is wanted; returns its id."""
    ticks = Cron(wanted.cron, wanted.timezone)
    schedule_id = keys.schedule_id(workflow_id, wanted.key)
    while True:
        now, seen = await store.scheduled(schedule_id)
        if not seen:
            kept = StoredSchedule(workflow_id, wanted.cron, wanted.timezone, wanted.key, declared, now)
            kept = replace(kept, next=ticks.after(now))
        else:
            before = StoredSchedule.unpack(seen)
            kept = replace(before, cron=wanted.cron, timezone=wanted.timezone, declared=declared)
            if not kept.paused and (kept.cron, kept.timezone) != (before.cron, before.timezone):
                kept = replace(kept, next=ticks.after(now))
        if kept.pack() == seen or await store.schedule(schedule_id, seen, kept.pack(), kept.next):
            return schedule_id


async def withdraw(store: Store, workflow_id: str, key: str) -> None:
    """Remove a schedule that its workflow no longer declares, unless a client has made it its own since."""
    schedule_id = keys.schedule_id(workflow_id, key)
    while True:
        _, seen = await store.scheduled(schedule_id)
        gone = not seen or not StoredSchedule.unpack(seen).declared
        if gone or await store.schedule(schedule_id, seen, b"", None):
            return


async def fire(store: Store, schedule_id: str, retention_ms: int) -> int | None:
    """Fire the ticks of a schedule that are due; ms until the next one, None when there is none."""
    for _ in range(IN_A_ROW):
        now, seen = await store.scheduled(schedule_id)
        kept = StoredSchedule.unpack(seen) if seen else None
        if kept is None or kept.next is None:
            return None
        if kept.next > now:
            return kept.next - now
        if now - kept.next > MISSED_MS:
            await _skip(store, schedule_id, seen, kept, kept.next, now)
            continue
        after = kept.ticks.after(kept.next)
        payload = SchedulePayload(
            timestamp=_moment(kept.next),
            last_timestamp=None if kept.last is None else _moment(kept.last),
            timezone=kept.timezone,
            schedule_id=schedule_id,
            key=kept.key,
            upcoming=_moment(after),
        )
        partition = keys.partition_of(schedule_id, store.partitions)
        execution_id = keys.id_in(partition, store.partitions, schedule_id, str(kept.next))
        definition = await definition_of(store, kept.workflow)
        start = start_options(
            definition, kept.workflow, None, queue=queue_of(definition, kept.workflow, None)
        )
        packed = replace(kept, last=kept.next, next=after).pack()
        starts = execution_id, kept.workflow, codec.encode(payload), retention_ms, start
        await store.schedule(schedule_id, seen, packed, after, *starts)
    return 0


async def _skip(
    store: Store, schedule_id: str, seen: bytes, kept: StoredSchedule, first: int, now: int
) -> None:
    tick, missed = first, 0
    while tick < now - MISSED_MS and missed < COUNTED:
        tick, missed = kept.ticks.after(tick), missed + 1
    if tick < now - MISSED_MS:
        tick = kept.ticks.after(now - MISSED_MS - 1)
    if await store.schedule(schedule_id, seen, replace(kept, next=tick).pack(), tick):
        told = {
            "schedule": schedule_id,
            "workflow": kept.workflow,
            "key": kept.key,
            "missed": missed if missed < COUNTED else f"{COUNTED} or more",
            "first": _moment(first).isoformat(),
            "next": _moment(tick).isoformat(),
        }
        logger.warning("a schedule's ticks were missed and are skipped", extra=told)


# --- as the store has it ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule as it is stored; times in ms since 1970."""

    workflow: str
    cron: str
    timezone: str
    key: str
    declared: bool
    created: int
    paused: bool = False
    last: int | None = None
    next: int | None = None

    @property
    def ticks(self) -> Cron:
        return Cron(self.cron, self.timezone)

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(asdict(self), unicode_errors="surrogatepass")
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> StoredSchedule:
        found = msgpack.unpackb(packed, unicode_errors="surrogatepass")
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})

    def shown(self, schedule_id: str) -> Schedule:
        return Schedule(
            id=schedule_id,
            workflow_id=self.workflow,
            cron=self.cron,
            timezone=self.timezone,
            key=self.key,
            declared=self.declared,
            paused=self.paused,
            created_at=_moment(self.created),
            last_at=None if self.last is None else _moment(self.last),
            next_at=None if self.next is None else _moment(self.next),
        )


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
