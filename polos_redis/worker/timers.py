"""The timer leader: fires suspension timeouts, retries, put-backs and ends of retention when they are due.

Any worker could fire them, as the script is atomic. One worker at a time leads in a partition, for `HOLD_MS`
after each pass; the others try to take over from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from polos_redis.errors import PolosError
from polos_redis.runtime.failure_log import log_failed_executions
from polos_redis.state.store import Store
from polos_redis.worker.errands import ErrandRunner

logger = logging.getLogger("polos.worker")

BATCH = 100  # per call: 2 ms of Redis' time
LONGEST_SLEEP = 0.1  # seconds: a new timer may be due before all others
RETRY_SECONDS = 1.0  # after a pass that failed
HOLD_MS = 1500


class TimerLeader:
    """Fires the timers of one partition while this worker leads them, as `holding` says."""

    def __init__(self, store: Store, prefix: bytes, worker_id: str, errands: ErrandRunner) -> None:
        self.store = store
        self.prefix = prefix
        self.worker_id = worker_id
        self.errands = errands
        self.holding = False
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Fire until cancelled."""
        while True:
            self._hurry.clear()
            try:
                pause = await self.fire()
            except PolosError as error:
                logger.error("timers could not be fired", extra={"error": str(error)})
                pause = RETRY_SECONDS
            if pause:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._hurry.wait()

    def hurry(self) -> None:
        """Fire now, because there is an errand, or room to run another one."""
        self._hurry.set()

    async def fire(self) -> float:
        """Fire one batch; returns the seconds until the next pass."""
        running = self.errands.running
        reply = await self.store.timers.fire(self.prefix, self.worker_id, HOLD_MS, BATCH, running)
        self.holding = reply is not None
        if reply is None:
            return random.uniform(0.5, 1.0) * HOLD_MS / 1000
        log_failed_executions(reply.failed)
        self.errands.run(reply.errands, self.hurry)
        more = len(reply.errands) == BATCH + running and self.errands.has_room
        if more or BATCH in (reply.fired, reply.forgotten):
            return 0.0
        return LONGEST_SLEEP if reply.next_ms is None else min(LONGEST_SLEEP, reply.next_ms / 1000)
