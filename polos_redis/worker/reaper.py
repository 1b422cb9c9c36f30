"""The reaper: recovers the entries of dead workers.

A consumer is presumed dead when its lease counter (or the lack of one) has stood still for a full lease on
the reaper's own monotonic clock, watched without a break: an outage or a clock jump kills no worker. The
reaper works from the group's list of consumers, because a half-open blocked read can receive entries after
its lease row is gone. The entries go back to the queue in bounded batches; an empty consumer is removed
later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from polos_redis.errors import PolosError
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.text import text

logger = logging.getLogger("polos.worker")

BATCH = 100
MARGIN_SECONDS = 5.0


class Reaper:
    """Watches the other workers of one partition. `in_charge` says whether this worker is the one to act,
    `in_touch` whether it has been able to renew its own lease there."""

    def __init__(
        self,
        store: Store,
        prefix: bytes,
        worker_id: str,
        *,
        lease_seconds: float,
        block_seconds: float,
        max_deliveries: int,
        in_charge: Callable[[], bool],
        in_touch: Callable[[], bool],
        stats: WorkerStats,
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.worker_id = worker_id
        self.lease_seconds = lease_seconds
        self.empty_after = lease_seconds + block_seconds + min(MARGIN_SECONDS, lease_seconds)
        self.max_deliveries = max_deliveries
        self.in_charge = in_charge
        self.in_touch = in_touch
        self.stats = stats
        self._counters: dict[str, tuple[bytes, float]] = {}
        self._epoch = -1
        self._last_sweep = 0.0

    async def run(self) -> None:
        """Watch until cancelled. All workers watch; the leader of the timers acts."""
        while True:
            await asyncio.sleep(self.lease_seconds / 4)
            try:
                await self.sweep()
            except PolosError as error:
                logger.warning("reaping has to wait", extra={"error": str(error)})

    async def sweep(self) -> None:
        """Check every worker once."""
        wire = self.store.wire
        leases = await wire.call("HGETALL", self.prefix + keys.WORKERS.encode(), patience=None)
        now = time.monotonic()
        away = now - self._last_sweep > self.lease_seconds / 2 or not self.in_touch()
        if self._epoch != wire.epoch or away:
            self._counters.clear()  # Redis or this process was away: the others may have been unable to renew
            self._epoch = wire.epoch
        self._last_sweep = now
        rows = {text(k): v for k, v in zip(leases[::2], leases[1::2], strict=True)}
        present: set[str] = set(rows)
        queues = await wire.call("SMEMBERS", self.prefix + keys.QUEUES.encode(), patience=None)
        for queue in map(text, queues):
            key = self.prefix + keys.QUEUE.encode() + queue.encode()
            found = await wire.call("XINFO", "CONSUMERS", key, keys.GROUP, patience=None)
            consumers = [dict(zip(row[::2], row[1::2], strict=True)) for row in found]
            pending = {text(consumer[b"name"]): consumer[b"pending"] for consumer in consumers}
            present.update(pending)
            for name in pending.keys() | rows.keys():
                counter = rows.get(name, b"")
                silent = self._silent_for(name, counter, now)
                if name != self.worker_id and silent >= self.lease_seconds and self.in_charge():
                    if pending.get(name):
                        await self._recover(queue, key, name, counter)
                    elif silent >= self.empty_after:
                        await self.store.workers.prune(self.prefix, queue, name, counter)
        self._counters = {name: last for name, last in self._counters.items() if name in present}

    def _silent_for(self, name: str, counter: bytes, now: float) -> float:
        """Returns for how many seconds this worker has seen a counter unchanged."""
        last = self._counters.get(name)
        if last is None or last[0] != counter:
            self._counters[name] = (counter, now)
            return 0.0
        return now - last[1]

    async def _recover(self, queue: str, key: bytes, consumer: str, counter: bytes) -> None:
        while self.in_charge():
            rows: list[Any] = await self.store.wire.call(
                "XPENDING", key, keys.GROUP, "-", "+", BATCH, consumer, patience=None
            )
            if not rows:
                return
            moved = await self.store.queues.requeue(
                self.prefix,
                queue,
                consumer,
                [row[0] for row in rows],
                lost=counter,
                max_deliveries=self.max_deliveries,
            )
            if moved is None:  # it has come back
                return
            requeued, failed, dropped = moved
            outcome = {"requeued": requeued, "failed": failed, "dropped": dropped}
            for what, entries in outcome.items():
                self.stats.recovered[what] += entries
            logger.warning("recovered from a lost worker", extra={"lost": consumer, **outcome})
