"""Executions of workflows that this worker does not know: one warning a minute, not one for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from polos_redis import tasks

logger = logging.getLogger("polos.worker")

FIRST_SECONDS = 1.0  # from the first one to its warning, which has those that came with it
EVERY_SECONDS = 60.0
MAX_NAMES = 20  # workflows that a warning lists
MAX_COUNTED = 10_000  # executions that are told apart


class UnknownWorkflows:
    """Collects what was left to other workers since the last warning, and warns."""

    def __init__(self) -> None:
        self._executions: dict[str, set[str]] = {}  # by workflow
        self._counted = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last = float("-inf")

    def note(self, workflow: str, execution_id: str) -> None:
        """Note an execution that was left to other workers."""
        found = self._executions.setdefault(workflow, set())
        if execution_id not in found and self._counted < MAX_COUNTED:
            found.add(execution_id)
            self._counted += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            due = max(loop.time() + FIRST_SECONDS, self._last + EVERY_SECONDS)
            self._timer = loop.call_at(due, self._warn, loop.time, context=tasks.OUTSIDE)

    def _warn(self, clock: Callable[[], float]) -> None:
        self._last = clock()
        self.close()

    def close(self) -> None:
        """Warn now of what was noted since the last warning."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        names = sorted(self._executions)
        more = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
        count: int | str = self._counted if self._counted < MAX_COUNTED else f"{MAX_COUNTED} or more"
        self._executions, self._counted = {}, 0
        facts = {"workflows": names[:MAX_NAMES] + more, "executions": count}
        logger.warning("unknown workflows, left to other workers", extra=facts)
