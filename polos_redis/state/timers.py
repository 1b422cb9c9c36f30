"""Timers: what is due at a time, fired by the timer leader of each partition."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.state import scripts
from polos_redis.state.errands import Errand
from polos_redis.state.failed_execution import FailedExecution
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import text

NEVER_MS = (1 << 53) - 1  # the timer of an unserved execution, see scripts/lib/reserved.lua


@dataclass(frozen=True, slots=True)
class Fired:
    """Result of one timer pass: how many timers fired and how many executions expired, the ms to the next
    timer (None if there is none), the errands that are due, and the executions that have failed."""

    fired: int
    forgotten: int
    next_ms: int | None
    errands: list[Errand]
    failed: list[FailedExecution]


def starts_ms(due: bytes | None) -> int | None:
    """Returns the time of an execution's start timer; None for that of an unserved one."""
    ms = 0 if due is None else int(float(due))
    return ms if 0 < ms < NEVER_MS else None


class Timers:
    """All timers of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def fire(self, prefix: bytes, worker: str, hold_ms: int, limit: int, running: int) -> Fired | None:
        """Fire due timers, as the partition's leader for the next `hold_ms`; None if another worker is the
        leader. The errands returned may include those that the caller runs already, `running` in number."""
        reply = await self._wire.call_script(
            scripts.FIRE_TIMERS, prefix, worker, hold_ms, limit, running, patience=None
        )
        if reply[0] == -1:
            return None
        fired, forgotten, next_ms, flat, failed = reply
        errands = [Errand(text(name), due) for name, due in zip(flat[::2], flat[1::2], strict=True)]
        return Fired(
            fired, forgotten, None if next_ms < 0 else next_ms, errands, FailedExecution.parse(failed)
        )
