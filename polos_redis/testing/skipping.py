"""Skips time in a test's namespace: from due time to due time, until nothing happens any more at each."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Protocol

from polos_redis.state.clock import Ahead, Clock

PAUSE_SECONDS = 0.002  # between two looks


class Working(Protocol):
    """The worker of a test's namespace."""

    @property
    def is_sending(self) -> bool: ...
    def hurry(self) -> None: ...


async def skip(clock: Clock, worker: Working, channels: Sequence[str], skip_ms: int, timeout: float) -> None:
    """See `World.skip`."""
    ahead = await idle(clock, worker, channels, timeout)
    until = ahead[0].now_ms + skip_ms
    while True:
        dues = [one.due_ms for one in ahead if one.due_ms is not None]
        due = min([until, *dues])
        await skip_to(clock, worker, ahead, due)
        ahead = await idle(clock, worker, channels, timeout)
        if due == until:
            await clock.skip_to(ahead[0].skipped_ms)  # removes what has expired
            return


async def skip_to(clock: Clock, worker: Working, ahead: Sequence[Ahead], due_ms: float) -> None:
    """Skip to a due time, as seen from the last look, and fire what is due then."""
    ms = math.ceil(due_ms - min(one.now_ms for one in ahead))
    if ms > 0:
        await clock.skip_to(ahead[0].skipped_ms + ms)
        worker.hurry()


async def idle(clock: Clock, worker: Working, channels: Sequence[str], timeout: float) -> list[Ahead]:
    """Wait until nothing happens before the next due time, in two looks with nothing between them; returns
    what the last one found."""
    before: list[int] | None = None
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        ahead = await clock.look_ahead(channels)
        added = [one.added for one in ahead]
        is_idle = all(one.is_idle for one in ahead) and not worker.is_sending
        if is_idle and added == before:
            return ahead
        before = added if is_idle else None
        if loop.time() > end:
            raise TimeoutError(_busy(ahead, timeout))
        await asyncio.sleep(PAUSE_SECONDS)


def _busy(ahead: list[Ahead], timeout: float) -> str:
    queued = sum(one.queued for one in ahead)
    if queued:
        count = "1 execution" if queued == 1 else f"{queued} executions"
        return (
            f"time can't be skipped: after {timeout:g} s, {count} still ran or waited for a worker; end their"
            " steps, or serve their workflows, or give skip() a longer timeout"
        )
    return f"time can't be skipped: timers were still being fired after {timeout:g} s; see the worker's log"
