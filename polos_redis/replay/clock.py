"""The event loop of replays, whose clock skips the time that code only waits.

A replay has nothing to wait for: steps return at once. What is left are timers, such as that of an
`asyncio.timeout` around a step, or a sleep in a workflow's code. So whenever every task waits, the clock
jumps to the next timer, and a timeout of an hour takes no time. Once no timer is left either, the code is
quiet: it will do nothing more.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

PATIENCE_SECONDS = 5.0  # for a thread or a socket that code awaits; they take real time
MOST_JUMPS = 1000  # until code that sets timers without end, such as one that polls, counts as quiet


class _Selector(selectors.DefaultSelector):
    """Asks its loop to jump instead of waiting for a timer."""

    loop: SkippingLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if not self.loop.may_jump():
            longest = PATIENCE_SECONDS if self.loop.skips else timeout
            start = time.monotonic()
            ready = super().select(longest if timeout is None or longest is None else min(timeout, longest))
            self.loop.now += time.monotonic() - start
            if ready or not self.loop.skips or (timeout is not None and timeout <= PATIENCE_SECONDS):
                return ready
        self.loop.jump(timeout)
        return []


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock (`now`, seconds) stands still while code runs, and jumps while a task awaits
    `quiet`. Otherwise waiting takes real time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._jumps = 0
        self._threads: set[asyncio.Future[Any]] = set()
        self._quiet: asyncio.Future[None] | None = None
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self._own = len(selector.get_map())  # the pipe that wakes the loop

    def time(self) -> float:
        return self.now

    @property
    def skips(self) -> bool:
        """Whether a task awaits `quiet`."""
        return self._quiet is not None and not self._quiet.done()

    def may_jump(self) -> bool:
        """Whether nothing that takes real time is awaited, as far as the loop knows: no thread, no socket."""
        selector: _Selector = self._selector  # type: ignore[attr-defined] # asyncio's own name for it
        return self.skips and not self._threads and len(selector.get_map()) <= self._own

    def jump(self, seconds: float | None) -> None:
        """Skip to the next timer, which is due in this many seconds; None if there is none."""
        assert self._quiet is not None
        self._jumps += 1
        if seconds is None or self._jumps > MOST_JUMPS:
            self._quiet.set_result(None)
        else:
            self.now = math.nextafter(self.now + seconds, math.inf)  # not before it by rounding

    async def quiet(self) -> None:
        """Wait until no other task can go on by itself. One task may call this at a time."""
        self._jumps = 0
        self._quiet = self.create_future()
        try:
            await self._quiet
        finally:
            self._quiet = None

    def run_in_executor(  # type: ignore[override] # a thread's result may be of any type
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self._threads.add(future)
        future.add_done_callback(self._threads.discard)
        return future
