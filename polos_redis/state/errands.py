"""Errands: work that a script leaves to a worker because it spans partitions or needs more than Lua."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import isinf
from typing import Literal

import msgpack

from polos_redis.state import keys, scripts
from polos_redis.state.clock import Clock
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw, text
from polos_redis.values.versioned import items_of

REASON_LENGTH = 1000  # characters


@dataclass(frozen=True, slots=True)
class Errand:
    """An errand that is due; `due` is its stored time."""

    name: str
    due: bytes


@dataclass(frozen=True, slots=True)
class FailedErrand:
    """An errand whose latest attempts have failed: how many, when the last one did (ms), and why. One that
    was set aside is not tried again until somebody asks for it. Of one that is `running`, the last attempt
    has begun and not ended."""

    prefix: bytes
    name: str
    attempts: int
    tried_ms: int
    reason: str
    set_aside: bool
    running: bool


Failure = Literal["later", "set aside", "changed"]


class Errands:
    """All errands of the namespace. An errand stored again since it was read is left alone."""

    def __init__(self, partitions: Partitions, clock: Clock) -> None:
        self._partitions, self._clock = partitions, clock
        self._wire = partitions.wire

    async def start(
        self, prefix: bytes, errand: Errand, attempt: str, *, most: int, alone: bool, longest_ms: int
    ) -> list[bytes]:
        """Count an attempt at an errand before it is made; returns the tagged reply of start_errand.lua."""
        reply: list[bytes] = await self._wire.call_script(
            scripts.START_ERRAND,
            prefix,
            raw(errand.name),
            errand.due,
            attempt,
            most,
            int(alone),
            longest_ms,
            patience=None,
        )
        return reply

    async def done(self, prefix: bytes, errand: Errand) -> None:
        """Remove an errand."""
        await self._finish(prefix, errand, "", "")

    async def put_off(self, prefix: bytes, errand: Errand, ms: int, *, uncounted: str = "") -> None:
        """Make an errand due again in `ms`; the attempt `uncounted` does not count."""
        await self._finish(prefix, errand, ms, uncounted)

    async def _finish(self, prefix: bytes, errand: Errand, delay: int | str, uncounted: str) -> None:
        await self._wire.call_script(
            scripts.FINISH_ERRAND, prefix, raw(errand.name), errand.due, delay, uncounted, patience=None
        )

    async def failed(
        self,
        prefix: bytes,
        errand: Errand,
        attempt: str,
        reason: str,
        *,
        most: int,
        first_ms: int,
        longest_ms: int,
    ) -> tuple[Failure, int, int]:
        """Note that an attempt has failed; returns what becomes of the errand, the ms until it is due again,
        and the number of attempts.

        It is due again in `first_ms`, five times as long after each further failure, `longest_ms` at most,
        and set aside after `most` failures (0: never).
        """
        what, ms, attempts = await self._wire.call_script(
            scripts.FAIL_ERRAND,
            prefix,
            raw(errand.name),
            errand.due,
            attempt,
            most,
            first_ms,
            longest_ms,
            raw(reason[:REASON_LENGTH]),
            patience=None,
        )
        found: Failure = text(what)  # type: ignore[assignment] # one of the script's
        return found, ms, attempts

    async def failures(self) -> AsyncIterator[FailedErrand]:
        """Yields the errands whose latest attempt has failed, of all partitions."""
        patience = self._partitions.patience
        for prefix in self._partitions.prefixes:
            key = prefix + keys.ERRAND_FAILURES.encode()
            cursor = b"0"
            while True:
                cursor, flat = await self._wire.call("HSCAN", key, cursor, "COUNT", 500, patience=patience)
                for found in await self._described(prefix, flat[::2]):
                    if found is not None:
                        yield found
                if cursor == b"0":
                    break

    async def failures_of(self, prefix: bytes, names: list[str]) -> list[FailedErrand | None]:
        """Returns what is known of the failures of some errands of a partition; None for one without."""
        return await self._described(prefix, list(map(raw, names)))

    async def _described(self, prefix: bytes, names: list[bytes]) -> list[FailedErrand | None]:
        """Reads the times before the failures: an errand set aside by then has its last failure noted."""
        if not names:
            return []
        errands, failures = prefix + keys.ERRANDS.encode(), prefix + keys.ERRAND_FAILURES.encode()
        patience = self._partitions.patience
        dues = await self._wire.call("ZMSCORE", errands, *names, patience=patience)
        rows = await self._wire.call("HMGET", failures, *names, patience=patience)
        found: list[FailedErrand | None] = []
        now = None
        for name, due, packed in zip(names, dues, rows, strict=True):
            if packed is None or due is None:
                found.append(None)
                continue
            stored = items_of("a failed errand", msgpack.unpackb(packed, raw=True))
            attempts, _, tried, reason, *until = stored
            aside = isinf(float(due))
            if until and now is None:
                now = await self._now(prefix)
            running = bool(until) and not aside and until[0] > now
            found.append(FailedErrand(prefix, text(name), attempts, int(tried), text(reason), aside, running))
        return found

    async def _now(self, prefix: bytes) -> int:
        """The time of the server that has a partition, ms; 0 if that is away just now."""
        node = self._wire.node(prefix)
        if node is None:
            return 0
        seconds, micros = await node.call("TIME", patience=self._partitions.patience)
        return int(seconds) * 1000 + int(micros) // 1000 + await self._clock.skipped_ms()

    async def retry(self, prefix: bytes, name: str) -> bool:
        """Make a failed errand due now, with no attempt counted; False if it has not failed."""
        return bool(
            await self._wire.call_script(
                scripts.RETRY_ERRAND, prefix, raw(name), patience=self._partitions.patience
            )
        )
