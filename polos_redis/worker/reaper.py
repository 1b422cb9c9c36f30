"""The reaper: recovers the entries of dead workers.

A consumer is presumed dead when its lease counter (or the lack of one) has stood still for a full lease in
which it could have been renewed, as this worker has watched it (`lease_watch.py`): an outage or a clock jump
kills no worker. The reaper works from the group's list of consumers, because a half-open blocked read can
receive entries after its lease row is gone. The entries go back to the queue in bounded batches; an empty
consumer is removed later.

A reserved stream (`reserved.py`) that has no consumers is removed, and its executions wait for one.

It also looks through the partition's rows for what half of a script has left, some rows at a time: a server
whose log was cut within a script may have loaded that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from polos_redis.definitions.published import definition_of
from polos_redis.errors import PolosError, RedisUnavailableError
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.runtime.failure_log import log_failed_executions, log_paused_executions
from polos_redis.state import keys
from polos_redis.state.repairs import FIRST, Table
from polos_redis.state.store import Store
from polos_redis.values.text import raw, text
from polos_redis.wire.wire import Wire
from polos_redis.worker.lease_watch import LeaseCounters

logger = logging.getLogger("polos.worker")

BATCH = 100
REPAIRED_ROWS = 100  # that the leader looks at, four times per lease
LEAST_ROWS = 20  # that a call counts as
MARGIN_SECONDS = 5.0


class Reaper:
    """Watches the other workers of one partition. `in_charge` says whether this worker is the one to act,
    `overdue` for how many seconds it should have been able to renew its own lease there and was not."""

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
        overdue: Callable[[], float],
        stats: WorkerStats,
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.worker_id = worker_id
        self.lease_seconds = lease_seconds
        self.empty_after = lease_seconds + block_seconds + min(MARGIN_SECONDS, lease_seconds)
        self.max_deliveries = max_deliveries
        self.in_charge = in_charge
        self.overdue = overdue
        self.stats = stats
        self._watch = LeaseCounters(lease_seconds)
        self._tables: list[Table] = []  # to look through for half a change, and the cursor in the first one
        self._cursor = FIRST
        self._repaired_at = float("-inf")
        self._node: Wire | None = None
        self._lost_seconds = 0.0  # of the node's connection, at the previous look

    async def run(self) -> None:
        """Watch until cancelled. All workers watch; the leader of the timers acts."""
        while True:
            pause = self._watch.period
            try:
                pause = await self.sweep()
                if self.in_charge() and time.monotonic() - self._repaired_at >= self._watch.period:
                    self._repaired_at = time.monotonic()
                    await self.repair()
            except PolosError as error:
                logger.warning("reaping has to wait", extra={"error": str(error)})
            await asyncio.sleep(pause)

    async def sweep(self) -> float:
        """Check every worker once; returns the seconds until the next check."""
        queues = await self.store.wire.call("SMEMBERS", self.prefix + keys.QUEUES.encode(), patience=None)
        reserved = await self.store.queues.reserved(self.prefix)
        pending = {queue: await self._pending(queue) for queue in {*map(text, queues)} - reserved}
        pending |= {queue: await self._pending_of_reserved(queue) for queue in reserved}
        counters = await self._look({name for consumers in pending.values() for name in consumers})
        pause = self._watch.period
        for queue, consumers in pending.items():
            for name in counters:
                due = await self._due(name, self.lease_seconds if consumers.get(name) else self.empty_after)
                if due > 0:
                    pause = min(pause, due)
                elif consumers.get(name):
                    await self._recover(queue, name, counters[name])
                else:
                    await self.store.workers.prune(self.prefix, queue, name, counters[name])
        for queue in reserved:
            if not pending[queue]:
                await self._close(queue)
        return max(pause, self._watch.period / 10)

    async def _close(self, queue: str) -> None:
        """Remove a reserved stream that no worker reads."""
        while self.in_charge() and await self.store.queues.close(self.prefix, queue, BATCH):
            pass

    async def _due(self, name: str, after: float) -> float:
        """Returns the seconds until this worker acts on another one that renews no more; 0 for now. It acts
        `after` seconds of silence, or later if the other lease is longer, as while the setting is changed."""
        silent = self._watch.silent_for(name)
        if silent < after:
            return after - silent
        if not self.in_charge():
            return self._watch.period
        own = await self.store.workers.lease_seconds(self.prefix, name)
        return max(0.0, after + max(0.0, own - self.lease_seconds) - silent)

    async def repair(self) -> None:
        """Look for what half of a script has left, in the next rows of the partition."""
        left = REPAIRED_ROWS
        if not self._tables:
            self._tables = await self.store.repairs.tables(self.prefix)
        while self._tables and left > 0:
            page = await self.store.repairs.page(self.prefix, self._tables[0], self._cursor, REPAIRED_ROWS)
            for execution_id, wrong in page.wrong:
                logger.warning("repaired half a change", extra={"execution": execution_id, "found": wrong})
            self._cursor = page.cursor or FIRST
            if page.cursor is None:
                del self._tables[0]
            left -= max(LEAST_ROWS, page.rows)

    async def _pending(self, queue: str) -> dict[str, int]:
        """Returns the consumers of a queue and how many entries each of them holds."""
        found = await self.store.wire.call("XINFO", "CONSUMERS", self._key(queue), keys.GROUP, patience=None)
        rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in found]
        return {text(row[b"name"]): row[b"pending"] for row in rows}

    async def _pending_of_reserved(self, queue: str) -> dict[str, int]:
        """As `_pending`; a reserved stream may be gone."""
        try:
            return await self._pending(queue)
        except RedisUnavailableError:
            raise
        except PolosError:
            return {}

    async def _look(self, consumers: set[str]) -> dict[str, bytes]:
        """Watch the leases of all other workers and of these consumers; returns their counters."""
        wire = self.store.wire
        node = wire.node(self.prefix)
        lost = float("inf")
        if node is not None and node is self._node:
            lost = node.lost_seconds - self._lost_seconds
        asked = time.monotonic()
        leases = await wire.call("HGETALL", self.prefix + keys.WORKERS.encode(), patience=None)
        answered = time.monotonic()
        self._node = node = wire.node(self.prefix)
        self._lost_seconds = 0.0 if node is None else node.lost_seconds
        rows = {text(name): counter for name, counter in zip(leases[::2], leases[1::2], strict=True)}
        counters = {name: rows.get(name, b"") for name in consumers | rows.keys() if name != self.worker_id}
        self._watch.saw(counters, asked=asked, answered=answered, lost=lost + self.overdue())
        return counters

    def _key(self, queue: str) -> bytes:
        return self.prefix + keys.QUEUE.encode() + raw(queue)

    async def _recover(self, queue: str, consumer: str, counter: bytes) -> None:
        pausing: dict[str, bool] = {}
        while self.in_charge():
            rows: list[Any] = await self.store.wire.call(
                "XPENDING", self._key(queue), keys.GROUP, "-", "+", BATCH, consumer, patience=None
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
                pausing=pausing,
            )
            if moved is None:  # it has come back
                return
            for workflow_id in moved.unknown:
                pausing[workflow_id] = (await definition_of(self.store, workflow_id)).pauses
            outcome = {"requeued": moved.requeued, "failed": len(moved.failed), "dropped": moved.dropped}
            if moved.paused:
                outcome["paused"] = len(moved.paused)
            for what, entries in outcome.items():
                self.stats.recovered[what] += entries
            logger.warning("recovered from a lost worker", extra={"lost": consumer, **outcome})
            log_failed_executions(moved.failed)
            log_paused_executions(moved.paused)
