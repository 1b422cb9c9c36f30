"""Semaphores: the concurrency limits of queues and of concurrency keys.

A semaphore lives in the partition of its name. An execution of that partition acquires and releases its slot
in the scripts that start and end it; for an execution of another partition, errands carry the request and the
grant. Each request has a version, so a late or repeated one changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw, text


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """The request of an execution to its semaphore: whether it wants (or has) a slot, as of a version."""

    semaphore: str
    limit: int
    version: int
    wants_slot: bool


class Semaphores:
    """All semaphores of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def slot_request(self, prefix: bytes, execution_id: str) -> SlotRequest | None:
        """Returns the request of an execution; None if it needs no slot, or no longer exists."""
        reply = await self._wire.call_script(
            scripts.READ_SLOT_REQUEST, prefix, execution_id, patience=self._partitions.patience
        )
        return None if reply is None else SlotRequest(text(reply[0]), reply[1], reply[2], bool(reply[3]))

    async def request_slot(
        self, semaphore: str, limit: int, execution_id: str, version: int, check_ms: int
    ) -> bool:
        """Acquire a slot for an execution of another partition, or join the waiters; returns whether it has
        the slot now. An errand checks the holders in `check_ms`."""
        return await self._change_slot(semaphore, limit, execution_id, version, 1, check_ms)

    async def release_slot(self, semaphore: str, limit: int, execution_id: str, version: int) -> None:
        """Release a slot, or leave the waiters."""
        await self._change_slot(semaphore, limit, execution_id, version, 0, 0)

    async def _change_slot(
        self, semaphore: str, limit: int, execution_id: str, version: int, wants: int, check_ms: int
    ) -> bool:
        prefix = self._partitions.semaphore_prefix(semaphore)
        return bool(
            await self._wire.call_script(
                scripts.ACQUIRE_OR_RELEASE_SLOT,
                prefix,
                raw(semaphore),
                limit,
                execution_id,
                version,
                wants,
                check_ms,
                patience=self._partitions.patience,
            )
        )

    async def slot_holders(self, semaphore: str, cursor: bytes) -> tuple[bytes, list[tuple[str, int]]] | None:
        """Returns the next cursor and a page of the holders that live in other partitions, with their
        versions; None if there are neither holders nor waiters."""
        reply = await self._wire.call_script(
            scripts.READ_SLOT_HOLDERS,
            self._partitions.semaphore_prefix(semaphore),
            raw(semaphore),
            cursor,
            patience=self._partitions.patience,
        )
        if reply is None:
            return None
        cursor, flat = reply
        found = [(text(one), int(version)) for one, version in zip(flat[::2], flat[1::2], strict=True)]
        return cursor, found

    async def grant_slot(self, execution_id: str, version: int) -> bool:
        """Make an execution that got a slot runnable; False if its request has another version by now."""
        prefix = self._partitions.prefix(execution_id)
        return bool(
            await self._wire.call_script(
                scripts.GRANT_SLOT, prefix, execution_id, version, patience=self._partitions.patience
            )
        )
