"""The replay of an activation: which of its code only repeats what an earlier activation did, so that the
log is silent meanwhile.

A task repeats until it passes a wait that was decided since the last activation, awaits a task that has, or
the activation has journaled something. If there is no such wait, the last activation did not park but was
lost or handed back: then the code repeats until it has reached all that was journaled, and what it logs after
the last record may be logged twice.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from polos_redis.runtime.fenced_journal import FencedJournal
from polos_redis.values.text import text


class Replaying(Protocol):
    """An activation that starts with a journal. `must_reach`: whether a journaled key is still ahead."""

    journal: FencedJournal
    call_sites: dict[str, Any]
    passed_over: set[str]

    def must_reach(self, key: str) -> bool: ...


class Replay:
    """The replay of one activation, whose entry was queued at `queued_ms`."""

    __slots__ = ("_activation", "_ahead", "_known", "_left", "_parents", "_queued_ms")

    def __init__(self, activation: Replaying, queued_ms: int) -> None:
        self._activation = activation
        self._queued_ms = queued_ms
        self._known = activation.journal.known
        self._left: list[str] | None = None
        self._parents: dict[asyncio.Task[Any], asyncio.Task[Any] | None] = {}
        self._ahead: set[asyncio.Task[Any] | None] = set()  # tasks that do something new

    def passed(self, decided_ms: int) -> None:
        """Note that the current task goes on after a wait that was decided at this time."""
        if decided_ms >= self._queued_ms:
            self._ahead.add(asyncio.current_task())

    def goes_on(self) -> None:
        """Note that what was just journaled does not end the replay."""
        self._known = self._activation.journal.known

    def started(self, task: asyncio.Task[Any]) -> None:
        """Note a task that the current one has started."""
        self._parents[task] = parent = asyncio.current_task()
        if parent in self._ahead:
            self._ahead.add(task)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Note the end of a task, which its parent may await."""
        parent = self._parents.pop(task, None)
        if task in self._ahead:
            self._ahead.discard(task)
            self._ahead.add(parent)

    def repeats(self) -> bool:
        """Whether the calling code only repeats what was done before."""
        activation = self._activation
        if activation.journal.known != self._known:
            return False
        if self._ahead:
            return _current_task() not in self._ahead
        if self._left is None:
            names = activation.journal.unreached(activation.call_sites, activation.passed_over)
            self._left = [text(name) for name in names]
        while self._left and not activation.must_reach(self._left[-1]):
            self._left.pop()
        return bool(self._left)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread of the code
        return None
