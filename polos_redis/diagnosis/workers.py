"""The workers of a namespace, and whether they are alive.

A worker that reads its queues is seen at once: Redis knows when a consumer last asked for entries. One that
is busy reads nothing, so its lease is watched until it is renewed.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import Any

import msgpack

from polos_redis import settings
from polos_redis.errors import RedisRefusedError
from polos_redis.metrics.worker_facts import WorkerFacts
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.text import raw, text

LOOK_SECONDS = 0.25
MARGIN_SECONDS = 1.0


@dataclass(slots=True)
class WorkerReading:
    """A worker, or a consumer that has no lease.

    `versions` has those of its workflows that have one. `renewals` is the sum of its lease counters, None
    without a lease. `held` has, per queue, the entries that it was given and has not finished;
    `idle_seconds` is the time since it last asked for some, infinite if it never did. `facts` are as of its
    last renewal, None without a lease. `alive` is None until `watch` has found out.
    """

    id: str
    renewals: int | None = None
    lease_seconds: float = 0.0
    workflows: list[str] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    held: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    idle_seconds: float = float("inf")
    facts: WorkerFacts | None = None
    alive: bool | None = None

    @property
    def status(self) -> str:
        """One word: "alive", "silent" with a lease that is no longer renewed, "gone" without a lease, and
        "unknown" before `watch`."""
        if self.renewals is None:
            return "gone"
        return {True: "alive", False: "silent", None: "unknown"}[self.alive]

    @property
    def entries(self) -> int:
        """The entries that it holds."""
        return sum(self.held.values())

    def plain(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {
            "id": self.id,
            "status": self.status,
            "executions": self.entries,
            "lease_seconds": self.lease_seconds if self.renewals is not None else None,
            "queues": self.queues or sorted(self.held),
            "workflows": self.workflows,
            **{
                one.name: None if self.facts is None else getattr(self.facts, one.name)
                for one in fields(WorkerFacts)
            },
        }


async def read_workers(store: Store) -> dict[str, WorkerReading]:
    """Returns all workers that have a lease or are consumers of a queue, by id."""
    found: dict[str, WorkerReading] = {}
    for prefix in store.prefixes:
        await _read_leases(store, prefix, found)
        for queue in await store.partitions.queues(prefix, store.partitions.patience):
            for consumer in await _consumers(store, prefix, queue):
                one = _of(found, text(consumer[b"name"]))
                one.held[text(queue)] += consumer[b"pending"]
                one.idle_seconds = min(one.idle_seconds, consumer[b"idle"] / 1000)
    return found


async def watch(store: Store, workers: dict[str, WorkerReading]) -> None:
    """Find out which workers are alive: those that have just read a queue, at once, the others when they
    renew their leases. Waits for up to two thirds of the longest lease of these, which is two renewals."""
    left = {}
    for name, one in workers.items():
        if one.renewals is None:
            one.alive = False
        elif one.idle_seconds < one.lease_seconds:
            one.alive = True
        else:
            left[name] = one
    longest = max((one.lease_seconds for one in left.values()), default=0.0)
    deadline = time.monotonic() + longest * 2 / 3 + MARGIN_SECONDS
    while left and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        now: dict[str, WorkerReading] = {}
        for prefix in store.prefixes:
            await _read_leases(store, prefix, now)
        for name, one in list(left.items()):
            if name in now and now[name].renewals != one.renewals:
                one.alive = True
                del left[name]
    for one in left.values():
        one.alive = False


async def _read_leases(store: Store, prefix: bytes, found: dict[str, WorkerReading]) -> None:
    workers, serves = await asyncio.gather(
        store.wire.call("HGETALL", prefix + keys.WORKERS.encode(), patience=store.partitions.patience),
        store.wire.call("HGETALL", prefix + keys.SERVES.encode(), patience=store.partitions.patience),
    )
    announced = dict(zip(serves[::2], serves[1::2], strict=True))
    for name, counter in zip(workers[::2], workers[1::2], strict=True):
        one = _of(found, text(name))
        one.renewals = (one.renewals or 0) + int(counter)
        said = msgpack.unpackb(announced[name]) if name in announced else {}
        one.lease_seconds = said.get("lease_seconds", settings.OPTIONS["lease_seconds"].default)
        one.workflows, one.queues = said.get("workflows", []), said.get("queues", [])
        one.versions = said.get("versions", {})
        facts = WorkerFacts.parse(said.get("facts", {}))
        if one.facts is None or facts.up_seconds > one.facts.up_seconds:  # the latest of all partitions
            one.facts = facts


async def _consumers(store: Store, prefix: bytes, queue: bytes) -> list[dict[bytes, Any]]:
    key = prefix + keys.QUEUE.encode() + queue
    try:
        rows = await store.wire.call(
            "XINFO", "CONSUMERS", key, raw(keys.GROUP), patience=store.partitions.patience
        )
    except RedisRefusedError:  # no worker has created the group yet
        return []
    return [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]


def _of(found: dict[str, WorkerReading], name: str) -> WorkerReading:
    return found.setdefault(name, WorkerReading(name))
