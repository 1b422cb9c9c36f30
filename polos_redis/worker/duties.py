"""The duties of a worker in one partition, besides running executions: it fires timers and runs errands while
it is the leader there, watches the leases of other workers, and sends the notifications of its channels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from polos_redis.notifications.outbox import Outbox
from polos_redis.worker.reaper import Reaper
from polos_redis.worker.timers import TimerLeader


class Duties:
    """Runs the loops of one partition beside each other."""

    def __init__(self, timers: TimerLeader, reaper: Reaper, outboxes: Iterable[Outbox]) -> None:
        self._timers = timers
        self._reaper = reaper
        self._outboxes = list(outboxes)

    @property
    def leads(self) -> bool:
        """Whether this worker is the partition's timer leader, who acts where one worker should."""
        return self._timers.holding

    @property
    def is_sending(self) -> bool:
        """Whether this worker sends notifications of the partition."""
        return any(outbox.is_sending for outbox in self._outboxes)

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """The loops to run, each until cancelled."""
        return [self._timers.run(), self._reaper.run(), *(outbox.run() for outbox in self._outboxes)]

    def hurry(self) -> None:
        """Look for an errand that a script has just stored."""
        self._timers.hurry()

    async def stop(self) -> None:
        """Cancel errands, and give the notifications being sent a moment."""
        await self._timers.errands.stop()
        await asyncio.gather(*(outbox.stop() for outbox in self._outboxes))
