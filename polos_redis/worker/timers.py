"""Firing what is due: suspension timeouts, retries, put-backs; and forgetting what has been kept long enough.

Any worker may do it, the script is atomic; one at a time holds the pump of a partition and the others look
in now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from polos_redis.errors import PolosError
from polos_redis.state.store import Store
from polos_redis.worker.errands import Errands

logger = logging.getLogger("polos.worker")

BATCH = 100  # per call: 2 ms of Redis' time
LONGEST_SLEEP = 0.1  # seconds: a new timer may be due before all others
HOLD_MS = 1500


class Timers:
    """The timer pump of one partition, on one worker."""

    def __init__(self, store: Store, prefix: bytes, worker_id: str, errands: Errands) -> None:
        self.store = store
        self.prefix = prefix
        self.worker_id = worker_id
        self.errands = errands
        self.holding = False
        self._hurried = asyncio.Event()

    async def run(self) -> None:
        """Fire for ever."""
        while True:
            self._hurried.clear()
            try:
                pause = await self.fire()
            except PolosError as error:
                logger.error("timers could not be fired", extra={"error": str(error)})
                pause = 1.0
            if pause:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._hurried.wait()

    def hurry(self) -> None:
        """There is an errand: fire now, or when the batch that is at work is done."""
        if not self.errands.busy:
            self._hurried.set()

    async def fire(self) -> float:
        """Fire one batch; returns for how many seconds there is nothing to do."""
        reply = await self.store.timers.fire(self.prefix, self.worker_id, HOLD_MS, BATCH)
        self.holding = reply is not None
        if reply is None:
            return random.uniform(0.5, 1.0) * HOLD_MS / 1000
        self.errands.run(reply.errands, self.hurry)
        if reply.fired == BATCH or reply.forgotten == BATCH:
            return 0.0
        return LONGEST_SLEEP if reply.next_ms is None else min(LONGEST_SLEEP, reply.next_ms / 1000)
