"""The clock of a namespace: the server's and this machine's, and in a test's namespace what it has skipped.

A test marks its namespace in `meta` before anything else uses it. Whoever connects to it then runs the
variants of the scripts whose clock is ahead of the server's (`scripts.skipping`), through a `SkippingWire`.
All others never meet this code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgpack

from polos_redis.state import keys, scripts
from polos_redis.state.partitions import Acknowledging, Partitions
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.transport import Arg, Script

MOST_REMOVED = 500  # keys, in one call


class SkippingWire:
    """A wire that runs the variant of each script; everything else is the wire's own."""

    def __init__(self, wire: Acknowledging) -> None:
        self._wire: Any = wire

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def run(self, script: Script, key: bytes, *args: Arg) -> asyncio.Future[Any]:
        """Like `Wire.run`."""
        future: asyncio.Future[Any] = self._wire.run(scripts.skipping(script), key, *args)
        return future

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call_script`."""
        return await self._wire.call_script(scripts.skipping(script), key, *args, patience=patience)


def skipping(wire: AnyWire) -> AnyWire:
    """Returns a wire for a namespace whose time can be skipped."""
    return cast("AnyWire", SkippingWire(wire))


@dataclass(frozen=True, slots=True)
class Ahead:
    """What comes next in a partition: the time, the ms skipped so far, when the next timer, errand or
    notification is due (ms; None if there is none), and what is still happening."""

    now_ms: int
    skipped_ms: int
    due_ms: float | None
    queued: int
    added: int
    begun: int
    expired: int

    @property
    def is_idle(self) -> bool:
        """Whether nothing happens until the next due time."""
        is_due = self.due_ms is not None and self.due_ms <= self.now_ms
        return not (is_due or self.queued or self.begun or self.expired)


class Clock:
    """The clock of the namespace. `skips`: whether it is a test's, whose time can be skipped."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire
        self.skips = isinstance(partitions.wire, SkippingWire)

    async def now(self) -> float:
        """Returns the seconds since 1970 by this machine's clock, and what was skipped."""
        return time.time() + await self.skipped_ms() / 1000

    async def now_ms(self) -> int:
        """Like `now`, in ms."""
        return time.time_ns() // 1_000_000 + await self.skipped_ms()

    async def skipped_ms(self) -> int:
        """Returns by how many ms the namespace's clock is ahead of the server's."""
        if not self.skips:
            return 0
        key = self._partitions.prefixes[0] + keys.SKIPPED.encode()
        return int(await self._wire.call("GET", key, patience=self._partitions.patience) or 0)

    async def look_ahead(self, channels: Sequence[str]) -> list[Ahead]:
        """Returns what comes next in each partition of a test's namespace."""
        packed = msgpack.packb(list(channels), use_bin_type=False)
        calls = (
            self._wire.call_script(scripts.LOOK_AHEAD, prefix, packed, patience=self._partitions.patience)
            for prefix in self._partitions.prefixes
        )
        found = await asyncio.gather(*calls)
        return [
            Ahead(now, skipped, float(due) if due else None, *counts) for now, skipped, due, *counts in found
        ]

    async def skip_to(self, skipped_ms: int) -> None:
        """Remove what has expired in a test's namespace, then set by how many ms its clock is ahead."""
        for prefix in self._partitions.prefixes:
            while (
                await self._wire.call_script(
                    scripts.SKIP_TIME, prefix, skipped_ms, MOST_REMOVED, patience=self._partitions.patience
                )
                == MOST_REMOVED
            ):
                pass
