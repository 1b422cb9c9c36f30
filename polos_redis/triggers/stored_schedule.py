"""Stored schedules: the form in Redis, and the changes that workers and clients make.

Each change is a compare-and-set on the packed schedule, repeated until it succeeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import msgpack

from polos_redis.definitions.cron import Cron, Declared
from polos_redis.state import keys
from polos_redis.state.store import Store


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule as stored. Times are ms since 1970; `next` is None while the schedule is paused."""

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
        """The cron expression in its time zone."""
        return Cron(self.cron, self.timezone)

    def pack(self) -> bytes:
        """The stored form."""
        packed: bytes = msgpack.packb(asdict(self), unicode_errors="surrogatepass")
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> StoredSchedule:
        """Read the stored form. Fields of newer releases are ignored."""
        fields = msgpack.unpackb(packed, unicode_errors="surrogatepass")
        return cls(**{name: fields[name] for name in cls.__slots__ if name in fields})


async def put(store: Store, workflow_id: str, new: Declared, *, declared: bool) -> str:
    """Create a workflow's schedule, or change the existing one of that key; return its id."""
    ticks = Cron(new.cron, new.timezone)
    schedule_id = keys.schedule_id(workflow_id, new.key)
    while True:
        now, seen = await store.schedules.read(schedule_id)
        if not seen:
            stored = StoredSchedule(workflow_id, new.cron, new.timezone, new.key, declared, now)
            stored = replace(stored, next=ticks.after(now))
        else:
            before = StoredSchedule.unpack(seen)
            stored = replace(before, cron=new.cron, timezone=new.timezone, declared=declared)
            if not stored.paused and (stored.cron, stored.timezone) != (before.cron, before.timezone):
                stored = replace(stored, next=ticks.after(now))
        packed = stored.pack()
        if packed == seen or await store.schedules.change(schedule_id, seen, packed, stored.next):
            return schedule_id


async def withdraw(store: Store, workflow_id: str, key: str) -> None:
    """Remove a schedule that its workflow no longer declares, unless a client has changed it since."""
    schedule_id = keys.schedule_id(workflow_id, key)
    while True:
        _, seen = await store.schedules.read(schedule_id)
        declared = bool(seen) and StoredSchedule.unpack(seen).declared
        if not declared or await store.schedules.change(schedule_id, seen, b"", None):
            return
