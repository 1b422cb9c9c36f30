"""The lease: a worker's claim to be alive, a counter in Redis that the worker raises every few seconds.

No clock is compared across machines: others presume a worker dead when its counter stands still on their own
monotonic clock, and a worker judges itself by its own last renewal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgpack

from polos_redis.errors import PolosError
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.state.store import Store

logger = logging.getLogger("polos.worker")


class Lease:
    """The lease of one worker: a counter in each partition, valid only there. While a partition can't be
    renewed (its node is away, its slot migrates) the worker continues in the others."""

    def __init__(
        self, store: Store, worker_id: str, seconds: float, workflows: Sequence[str], stats: WorkerStats
    ) -> None:
        self.store = store
        self.worker_id = worker_id
        self.seconds = seconds
        self._stats = stats
        self._serves: bytes = msgpack.packb({"workflows": list(workflows), "lease_seconds": seconds})
        self._renewed = dict.fromkeys(store.prefixes, float("-inf"))
        self._fresh = {prefix: asyncio.Event() for prefix in store.prefixes}

    def age(self, prefix: bytes) -> float:
        """Returns the seconds since the last renewal in a partition."""
        return time.monotonic() - self._renewed[prefix]

    def is_fresh(self, prefix: bytes) -> bool:
        """Whether this worker may start anything in a partition: it renewed less than a lease ago."""
        return time.monotonic() - self._renewed[prefix] < self.seconds

    async def wait_until_fresh(self, prefix: bytes) -> None:
        """Return after the next renewal, or at once when the lease is fresh."""
        while not self.is_fresh(prefix):
            self._fresh[prefix].clear()
            await self._fresh[prefix].wait()

    async def renew(self) -> None:
        """Raise the counters."""
        await asyncio.gather(*(self._renew(prefix) for prefix in self.store.prefixes))

    async def _renew(self, prefix: bytes) -> None:
        since = time.monotonic()  # from the request on, not from the reply
        await self.store.workers.renew(prefix, self.worker_id, self._serves)
        if (before := self._renewed[prefix]) > 0:
            self._stats.renewals_missed += max(0, round((since - before) / (self.seconds / 3)) - 1)
        self._renewed[prefix] = since
        self._fresh[prefix].set()

    async def run(self) -> None:
        """Renew until cancelled, three times per lease."""
        await asyncio.gather(*(self._keep(prefix) for prefix in self.store.prefixes))

    async def _keep(self, prefix: bytes) -> None:
        while True:
            await asyncio.sleep(self.seconds / 3)
            try:
                await self._renew(prefix)
            except PolosError as error:
                logger.error("the lease could not be renewed", extra={"error": str(error)})
