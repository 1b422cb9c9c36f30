"""How much there is of everything in a namespace, for metrics: a bounded number of cheap calls."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgpack

from polos_redis import settings
from polos_redis.state import keys
from polos_redis.state.executions import STATUSES
from polos_redis.state.scripts import NAMESPACE_STATS
from polos_redis.state.store import Store
from polos_redis.values.text import raw, text

MOST_NAMES = 1000  # workflows, and queues, that are told apart
LONGEST_NAME = 200  # characters of one
PAGE = 200  # of each in one call: about 1 ms of Redis' time


@dataclass(slots=True)
class QueueStats:
    """One queue in all partitions. `waiting` and `delivered` are entries; `slots` and `line` are of its own
    lane, not of those of its concurrency keys; `limit` None when it has none."""

    waiting: int = 0
    delivered: int = 0
    slots: int = 0
    waiters: int = 0
    limit: int | None = None

    def add(self, waiting: int, delivered: int, slots: int, line: int) -> None:
        """What another partition has of it."""
        self.waiting += waiting
        self.delivered += delivered
        self.slots += slots
        self.waiters += line


@dataclass(slots=True)
class LeaseReading:
    """What a worker says of itself: how often it was renewed in all partitions, and how many seconds it is
    good for."""

    renewals: int
    seconds: float


@dataclass(slots=True)
class NamespaceStats:
    """What stands in a namespace. Partitions are looked at one after the other, so the sums are of a short
    while, not of a moment."""

    executions: Counter[tuple[str, str]] = field(default_factory=Counter)  # (workflow, status) -> how many
    queues: defaultdict[str, QueueStats] = field(default_factory=lambda: defaultdict(QueueStats))
    suspensions: int = 0
    oldest_suspension_ms: int = 0
    timers: int = 0
    timers_due: int = 0
    errands: int = 0
    errands_due: int = 0
    unattended: int = 0  # partitions in which no worker fires timers now
    leases: dict[str, LeaseReading] = field(default_factory=dict)  # by worker
    left_out: dict[str, int] = field(default_factory=dict)  # "workflows", "queues": names beyond MOST_NAMES


async def read_namespace_stats(store: Store) -> NamespaceStats:
    """Count. Raises what a call would when Redis is away."""
    stats = NamespaceStats()
    workflows, limits = set[str](), dict[str, int]()
    for prefix in store.prefixes:
        workflows |= await _members(store, prefix + keys.WORKFLOWS.encode())
        limits |= await _limits(store, prefix)
    queues = {keys.DEFAULT_QUEUE, *limits}
    for prefix in store.prefixes:
        queues |= await _members(store, prefix + keys.QUEUES.encode())
    shown = _some(workflows), _some(queues)
    stats.left_out = {"workflows": len(workflows) - len(shown[0]), "queues": len(queues) - len(shown[1])}
    for prefix in store.prefixes:
        await _count(store, prefix, *shown, stats)
        await _read_leases(store, prefix, stats)
    for name, limit in limits.items():
        if name in stats.queues:
            stats.queues[name].limit = limit
    return stats


async def _count(
    store: Store, prefix: bytes, workflows: list[str], queues: list[str], stats: NamespaceStats
) -> None:
    for first in range(0, max(len(workflows), len(queues), 1), PAGE):
        some, others = workflows[first : first + PAGE], queues[first : first + PAGE]
        names = map(raw, [*some, *others])
        *facts, by_workflow, by_queue = await store.wire.call_script(
            NAMESPACE_STATS, prefix, len(some), *names, patience=store.partitions.patience
        )
        for workflow, counts in zip(some, by_workflow, strict=True):
            for status, count in zip(STATUSES, counts, strict=True):
                stats.executions[workflow, status] += count
        for queue, counts in zip(others, by_queue, strict=True):
            stats.queues[queue].add(*counts)
    suspensions, oldest, timers, timers_due, errands, errands_due, attended = facts
    stats.suspensions += suspensions
    stats.oldest_suspension_ms = max(stats.oldest_suspension_ms, oldest)
    stats.timers += timers
    stats.timers_due += timers_due
    stats.errands += errands
    stats.errands_due += errands_due
    stats.unattended += not attended


async def _read_leases(store: Store, prefix: bytes, stats: NamespaceStats) -> None:
    workers, serves = await asyncio.gather(
        store.wire.call("HGETALL", prefix + keys.WORKERS.encode(), patience=store.partitions.patience),
        store.wire.call("HGETALL", prefix + keys.SERVES.encode(), patience=store.partitions.patience),
    )
    announced = dict(zip(serves[::2], serves[1::2], strict=True))
    usual: float = settings.OPTIONS["lease_seconds"].default
    for worker, counter in zip(workers[::2], workers[1::2], strict=True):
        says = msgpack.unpackb(announced[worker]) if worker in announced else {}
        lease = stats.leases.setdefault(text(worker), LeaseReading(0, says.get("lease_seconds", usual)))
        lease.renewals += int(counter)


async def _members(store: Store, key: bytes) -> set[str]:
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, page = await store.wire.call(
            "SSCAN", key, cursor, "COUNT", 500, patience=store.partitions.patience
        )
        found.update(map(text, page))
        if cursor == b"0":
            return found


async def _limits(store: Store, prefix: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    cursor = b"0"
    while True:
        cursor, flat = await store.wire.call(
            "HSCAN", prefix + keys.LIMITS.encode(), cursor, "COUNT", 500, patience=store.partitions.patience
        )
        found |= {text(name): int(limit) for name, limit in zip(flat[::2], flat[1::2], strict=True)}
        if cursor == b"0":
            return found


def _some(names: Iterable[str]) -> list[str]:
    """The names that are told apart, the same each time."""
    return sorted(name for name in names if len(name) <= LONGEST_NAME)[:MOST_NAMES]


class LeaseWatch:
    """Which workers are alive, as far as this process has seen: one whose lease has not been renewed for as
    long as it is good is dead, by this process's own monotonic clock. One that is seen for the first time is
    alive."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def count(self, leases: dict[str, LeaseReading]) -> int:
        """How many are alive, by what their leases are now."""
        now, before = time.monotonic(), self._seen
        self._seen = {
            worker: seen
            if (seen := before.get(worker)) is not None and seen[0] == lease.renewals
            else (lease.renewals, now)
            for worker, lease in leases.items()
        }
        return sum(now - self._seen[worker][1] < lease.seconds for worker, lease in leases.items())
