"""The stored form of a schedule, and the changes that workers and clients make to it.

Each change is a compare-and-set on the packed schedule, repeated until nobody else has changed it in between.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import msgpack

from polos_redis.definitions.cron import Cron, Declared
from polos_redis.state import keys
from polos_redis.state.store import Store


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule as Redis has it. Times are in ms since 1970; `next` is None while the schedule is paused."""

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
        """Fields that a newer release has added are left out."""
        found = msgpack.unpackb(packed, unicode_errors="surrogatepass")
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})


async def put(store: Store, workflow_id: str, wanted: Declared, *, declared: bool) -> str:
    """Create a schedule, or change the existing one to what is wanted; returns its id."""
    ticks = Cron(wanted.cron, wanted.timezone)
    schedule_id = keys.schedule_id(workflow_id, wanted.key)
    while True:
        now, seen = await store.schedules.read(schedule_id)
        if not seen:
            stored = StoredSchedule(workflow_id, wanted.cron, wanted.timezone, wanted.key, declared, now)
            stored = replace(stored, next=ticks.after(now))
        else:
            before = StoredSchedule.unpack(seen)
            stored = replace(before, cron=wanted.cron, timezone=wanted.timezone, declared=declared)
            if not stored.paused and (stored.cron, stored.timezone) != (before.cron, before.timezone):
                stored = replace(stored, next=ticks.after(now))
        packed = stored.pack()
        if packed == seen or await store.schedules.change(schedule_id, seen, packed, stored.next):
            return schedule_id


async def withdraw(store: Store, workflow_id: str, key: str) -> None:
    """Remove a schedule that its workflow no longer declares, unless a client has taken it over since."""
    schedule_id = keys.schedule_id(workflow_id, key)
    while True:
        _, seen = await store.schedules.read(schedule_id)
        gone = not seen or not StoredSchedule.unpack(seen).declared
        if gone or await store.schedules.change(schedule_id, seen, b"", None):
            return
