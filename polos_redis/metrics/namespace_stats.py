"""Namespace statistics: executions, queues, suspensions, timers and workers, counted in a few cheap calls."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgpack

from polos_redis import settings
from polos_redis.state import keys
from polos_redis.state.executions import STORED_STATUSES
from polos_redis.state.scripts import NAMESPACE_STATS
from polos_redis.state.store import Store
from polos_redis.values.text import raw, text

MAX_NAMES = 1000  # workflows, and queues, that are counted by name
PAGE = 200  # workflows and queues per call, which takes Redis about 1 ms


@dataclass(slots=True)
class QueueStats:
    """One queue, in all partitions.

    `waiting` and `delivered` are entries of the stream. `slots` and `waiters` belong to the queue's own
    semaphore, not to those of concurrency keys. `limit` is None for a queue without one.
    """

    waiting: int = 0
    delivered: int = 0
    slots: int = 0
    waiters: int = 0
    limit: int | None = None

    def add(self, waiting: int, delivered: int, slots: int, waiters: int) -> None:
        """Add the counts of another partition."""
        self.waiting += waiting
        self.delivered += delivered
        self.slots += slots
        self.waiters += waiters


@dataclass(slots=True)
class LeaseReading:
    """A worker's lease: the number of renewals in all partitions, its duration, and the workflows that the
    worker serves."""

    renewals: int
    seconds: float
    workflows: frozenset[str]


@dataclass(slots=True)
class NamespaceStats:
    """The statistics of one namespace. Partitions are read one after the other, so a sum is not a snapshot of
    one instant."""

    # By workflow and status; those beyond a partition's indexes under the name "" (`scripts/lib/index.lua`).
    executions: Counter[tuple[str, str]] = field(default_factory=Counter)
    queues: defaultdict[str, QueueStats] = field(default_factory=lambda: defaultdict(QueueStats))
    suspensions: int = 0
    oldest_suspension_ms: int = 0
    timers: int = 0
    timers_due: int = 0
    errands: int = 0
    errands_due: int = 0
    errands_set_aside: int = 0
    unattended: int = 0  # partitions without a timer leader
    leases: dict[str, LeaseReading] = field(default_factory=dict)  # by worker
    left_out: dict[str, int] = field(default_factory=dict)  # "workflows", "queues": names beyond MAX_NAMES


async def read_namespace_stats(store: Store) -> NamespaceStats:
    """Read the statistics. Raises `RedisUnavailableError`."""
    stats = NamespaceStats()
    workflows, limits = set[str](), dict[str, int]()
    for prefix in store.prefixes:
        names = await store.partitions.workflows(prefix, store.partitions.patience)
        workflows |= {text(name) for name in names if name}
        limits |= await _limits(store, prefix)
    queues = {keys.DEFAULT_QUEUE, *limits}
    for prefix in store.prefixes:
        queues |= await _members(store, prefix + keys.QUEUES.encode())
    shown = _counted(workflows), _counted(queues)
    stats.left_out = {"workflows": len(workflows) - len(shown[0]), "queues": len(queues) - len(shown[1])}
    for prefix in store.prefixes:
        await _count(store, prefix, ["", *shown[0]], shown[1], stats)
        await _read_leases(store, prefix, stats)
    if not any(stats.executions["", status] for status in STORED_STATUSES):
        for status in STORED_STATUSES:
            del stats.executions["", status]
    for name, limit in limits.items():
        if name in stats.queues:
            stats.queues[name].limit = limit
    return stats


async def _count(
    store: Store, prefix: bytes, workflows: list[str], queues: list[str], stats: NamespaceStats
) -> None:
    """Add one partition's counts. Each call returns the partition's totals; the last ones are used."""
    for first in range(0, max(len(workflows), len(queues), 1), PAGE):
        some_workflows, some_queues = workflows[first : first + PAGE], queues[first : first + PAGE]
        names = map(raw, [*some_workflows, *some_queues])
        *totals, by_workflow, by_queue = await store.wire.call_script(
            NAMESPACE_STATS, prefix, len(some_workflows), *names, patience=store.partitions.patience
        )
        for workflow, counts in zip(some_workflows, by_workflow, strict=True):
            for status, count in zip(STORED_STATUSES, counts, strict=True):
                stats.executions[workflow, status] += count
        for queue, counts in zip(some_queues, by_queue, strict=True):
            of = keys.parse_stream(queue)[0]
            stats.queues[of].add(*(counts if of == queue else [*counts[:2], 0, 0]))  # slots are of a queue
    suspensions, oldest, timers, timers_due, errands, errands_due, set_aside, attended = totals
    stats.suspensions += suspensions
    stats.oldest_suspension_ms = max(stats.oldest_suspension_ms, oldest)
    stats.timers += timers
    stats.timers_due += timers_due
    stats.errands += errands
    stats.errands_due += errands_due
    stats.errands_set_aside += set_aside
    stats.unattended += not attended


async def _read_leases(store: Store, prefix: bytes, stats: NamespaceStats) -> None:
    workers, serves = await asyncio.gather(
        store.wire.call("HGETALL", prefix + keys.WORKERS.encode(), patience=store.partitions.patience),
        store.wire.call("HGETALL", prefix + keys.SERVES.encode(), patience=store.partitions.patience),
    )
    announced = dict(zip(serves[::2], serves[1::2], strict=True))
    default: float = settings.OPTIONS["lease_seconds"].default
    for worker, counter in zip(workers[::2], workers[1::2], strict=True):
        options = msgpack.unpackb(announced[worker]) if worker in announced else {}
        seconds = options.get("lease_seconds", default)
        workflows = frozenset(options.get("workflows", ()))
        lease = stats.leases.setdefault(text(worker), LeaseReading(0, seconds, workflows))
        lease.renewals += int(counter)


async def _members(store: Store, key: bytes) -> set[str]:
    members: set[str] = set()
    cursor = b"0"
    while True:
        cursor, page = await store.wire.call(
            "SSCAN", key, cursor, "COUNT", 500, patience=store.partitions.patience
        )
        members.update(map(text, page))
        if cursor == b"0":
            return members


async def _limits(store: Store, prefix: bytes) -> dict[str, int]:
    """The concurrency limits of queues that one partition has."""
    limits: dict[str, int] = {}
    cursor = b"0"
    while True:
        cursor, flat = await store.wire.call(
            "HSCAN", prefix + keys.LIMITS.encode(), cursor, "COUNT", 500, patience=store.partitions.patience
        )
        limits |= {text(name): int(limit) for name, limit in zip(flat[::2], flat[1::2], strict=True)}
        if cursor == b"0":
            return limits


def _counted(names: Iterable[str]) -> list[str]:
    """The names to count: always the same ones, so that series don't come and go."""
    return sorted(names)[:MAX_NAMES]


class LeaseWatch:
    """Tells live workers from dead ones, by this process's monotonic clock.

    A worker is presumed dead if its lease has not been renewed for the lease's duration. One seen for the
    first time is live.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def live(self, leases: dict[str, LeaseReading]) -> dict[str, LeaseReading]:
        """Return the leases of live workers, given all current ones."""
        now, before = time.monotonic(), self._seen
        self._seen = {
            worker: seen
            if (seen := before.get(worker)) is not None and seen[0] == lease.renewals
            else (lease.renewals, now)
            for worker, lease in leases.items()
        }
        return {one: lease for one, lease in leases.items() if now - self._seen[one][1] < lease.seconds}
