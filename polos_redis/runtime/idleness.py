"""Idleness: when a workflow's code no longer touches ctx, so its activation can park.

Code that runs several tasks may have one at a wait while another is between two steps, and asyncio can't tell
a task that awaits something outside ctx from one about to call a step. So the code counts as idle when
nothing has touched ctx for `IDLE_SECONDS`, and then for `IDLE_TURNS` turns of the event loop: on a busy loop
the time alone may pass within a single turn, before a ready task has run.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from polos_redis import tasks

IDLE_SECONDS = 0.05
IDLE_TURNS = 16


class Watched(Protocol):
    """The parking of an activation as its watch sees it. `touches` counts the uses of ctx by the code;
    `may_park`: the code runs, has an open wait and no step in flight."""

    @property
    def touches(self) -> int: ...
    def may_park(self) -> bool: ...
    def park(self) -> None: ...


class IdleWatch:
    """Parks an activation once its code is idle. Once armed, it checks again while the code touches ctx, and
    stops when a step is in flight, whose end has to arm it again."""

    __slots__ = ("_armed", "_loop", "_watched")

    def __init__(self, watched: Watched, loop: asyncio.AbstractEventLoop) -> None:
        self._watched = watched
        self._loop = loop
        self._armed = False

    def arm(self) -> None:
        """Check for idleness after `IDLE_SECONDS`, unless armed already."""
        if not self._armed:
            self._armed = True
            self._loop.call_later(IDLE_SECONDS, self._check, self._watched.touches, context=tasks.OUTSIDE)

    def _check(self, touches: int) -> None:
        if not self._watched.may_park():
            self._armed = False
        elif touches != self._watched.touches:
            self._arm_again()
        else:
            self._count_turns(IDLE_TURNS, touches)

    def _count_turns(self, left: int, touches: int) -> None:
        if touches != self._watched.touches:
            self._arm_again()
        elif left:
            self._loop.call_soon(self._count_turns, left - 1, touches, context=tasks.OUTSIDE)
        else:
            self._armed = False
            if self._watched.may_park():
                self._watched.park()

    def _arm_again(self) -> None:
        self._armed = False
        self.arm()
