"""The queues of a namespace: what waits in them, and who reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from polos_redis.diagnosis.workers import WorkerReading
from polos_redis.errors import RedisRefusedError
from polos_redis.metrics.namespace_stats import NamespaceStats
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.text import raw


@dataclass(frozen=True, slots=True)
class QueueReading:
    """One queue, in all partitions.

    `waiting` executions are runnable and not delivered to a worker, the oldest for `oldest_seconds` (0 for
    none); workers hold `delivered` ones. With a `limit`, `slots` of it are taken and `waiters` executions
    wait for one. `workers` is the number of live workers that read it.
    """

    name: str
    waiting: int
    oldest_seconds: float
    delivered: int
    limit: int | None
    slots: int
    waiters: int
    workers: int

    def plain(self) -> dict[str, Any]:
        """Returns JSON values."""
        return asdict(self)


async def read_queues(
    store: Store, stats: NamespaceStats, workers: Iterable[WorkerReading]
) -> list[QueueReading]:
    """Returns the queues that `stats` counted, by name. `workers` were watched."""
    readers = Counter(queue for one in workers if one.alive for queue in one.queues)
    return [
        QueueReading(
            name=name,
            waiting=one.waiting,
            oldest_seconds=await oldest_entry_seconds(store, name) if one.waiting else 0.0,
            delivered=one.delivered,
            limit=one.limit,
            slots=one.slots,
            waiters=one.waiters,
            workers=readers[name],
        )
        for name, one in sorted(stats.queues.items())
    ]


async def oldest_entry_seconds(store: Store, queue: str) -> float:
    """Returns how long the oldest undelivered entry of a queue has waited; 0 if there is none."""
    patience, oldest = store.partitions.patience, 0.0
    for prefix in store.prefixes:
        key = prefix + keys.QUEUE.encode() + raw(queue)
        try:
            groups = await store.wire.call("XINFO", "GROUPS", key, patience=patience)
        except RedisRefusedError:  # no stream here, or no right to ask
            continue
        last = b"0"
        for row in groups:
            group = dict(zip(row[::2], row[1::2], strict=True))
            if group[b"name"] == keys.GROUP.encode():
                last = group[b"last-delivered-id"]
        entries = await store.wire.call("XRANGE", key, b"(" + last, "+", "COUNT", 1, patience=patience)
        for entry_id, _ in entries:
            now = await now_ms(store, prefix)
            oldest = max(oldest, (now - int(entry_id.partition(b"-")[0])) / 1000)
    return oldest


async def now_ms(store: Store, prefix: bytes) -> int:
    """Returns the time of the server that has a partition, in ms."""
    node = store.wire.node(prefix)
    seconds, micros = await (node or store.wire).call("TIME", patience=store.partitions.patience)
    return int(seconds) * 1000 + int(micros) // 1000
