"""Background tasks of a worker: short tasks that nothing awaits, such as loading a journal or handing an
entry back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from polos_redis import tasks

logger = logging.getLogger("polos.worker")


class Background:
    """Runs tasks, logs their failures, and waits for those still running at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine as a task."""
        task = tasks.spawn(coro)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a task of the worker failed", exc_info=task.exception())

    async def finish(self, seconds: float) -> None:
        """Wait for all tasks, including those they spawn, for at most this long; then cancel the rest."""
        clock = asyncio.get_running_loop().time
        late = clock() + seconds
        while self._tasks and clock() < late:
            await asyncio.wait(list(self._tasks), timeout=late - clock())
        for task in list(self._tasks):
            task.cancel()
