"""A worker's claim to be alive: a counter in Redis that it raises every few seconds.

No clock is compared across machines: others judge a worker by its counter standing still on their own
monotonic clock, and a worker judges itself by its own last renewal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgpack

from polos_redis.errors import PolosError
from polos_redis.store import Store

logger = logging.getLogger("polos.worker")


class Lease:
    """The lease of one worker in all partitions."""

    def __init__(self, store: Store, worker_id: str, seconds: float, workflows: Sequence[str]) -> None:
        self.store = store
        self.worker_id = worker_id
        self.seconds = seconds
        self._serves: bytes = msgpack.packb({"workflows": list(workflows)})
        self._renewed = float("-inf")
        self._fresh = asyncio.Event()

    def is_fresh(self) -> bool:
        """Whether this worker may begin anything: its last renewal is younger than the lease."""
        return time.monotonic() - self._renewed < self.seconds

    async def wait_until_fresh(self) -> None:
        """Return after the next renewal, at once when the lease is fresh."""
        while not self.is_fresh():
            self._fresh.clear()
            await self._fresh.wait()

    async def renew(self) -> None:
        """Raise the counter. What counts is when it was asked for, not when the answer came."""
        since = time.monotonic()
        for prefix in self.store.prefixes:
            await self.store.renew(prefix, self.worker_id, self._serves)
        self._renewed = since
        self._fresh.set()

    async def run(self) -> None:
        """Renew for ever, three times per lease."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            try:
                await self.renew()
            except PolosError as error:
                logger.error("the lease could not be renewed", extra={"error": str(error)})
