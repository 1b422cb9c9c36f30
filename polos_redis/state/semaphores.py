"""Semaphores: the concurrency limits of queues and of concurrency keys.

A semaphore lives in the partition of its name. An execution of that partition acquires and releases its slot
within the scripts that start and end it; for an execution of another partition, errands carry the request and
the grant between the two. Each request has a version, so that one that is late or repeated changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions
from polos_redis.values.text import raw, text


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """An execution's request to its semaphore: whether it wants (or has) a slot, as of a version."""

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
        """The request of an execution; None when it needs no slot, or is gone."""
        reply = await self._wire.call_script(scripts.SLOT_REQUEST, prefix, execution_id, patience=None)
        return None if reply is None else SlotRequest(text(reply[0]), reply[1], reply[2], bool(reply[3]))

    async def request_slot(
        self, semaphore: str, limit: int, execution_id: str, version: int, look_ms: int
    ) -> bool:
        """Acquire a slot for an execution of another partition, or join the waiters; returns whether it has
        the slot now. `look_ms` is the time until an errand checks the holders."""
        return await self._change_slot(semaphore, limit, execution_id, version, 1, look_ms)

    async def release_slot(self, semaphore: str, limit: int, execution_id: str, version: int) -> None:
        """Release a slot, or leave the waiters."""
        await self._change_slot(semaphore, limit, execution_id, version, 0, 0)

    async def _change_slot(
        self, semaphore: str, limit: int, execution_id: str, version: int, asks: int, look_ms: int
    ) -> bool:
        prefix = self._partitions.semaphore_prefix(semaphore)
        return bool(
            await self._wire.call_script(
                scripts.REQUEST_SLOT,
                prefix,
                raw(semaphore),
                limit,
                execution_id,
                version,
                asks,
                look_ms,
                patience=None,
            )
        )

    async def slot_holders(self, semaphore: str, cursor: bytes) -> tuple[bytes, list[tuple[str, int]]] | None:
        """A page of the holders that live in other partitions, with their versions; None when there are
        neither holders nor waiters."""
        reply = await self._wire.call_script(
            scripts.SLOT_HOLDERS,
            self._partitions.semaphore_prefix(semaphore),
            raw(semaphore),
            cursor,
            patience=None,
        )
        if reply is None:
            return None
        cursor, flat = reply
        found = [(text(one), int(version)) for one, version in zip(flat[::2], flat[1::2], strict=True)]
        return cursor, found

    async def grant_slot(self, execution_id: str, version: int) -> bool:
        """Make an execution runnable that got a slot; False when it no longer wants the slot of this
        version."""
        prefix = self._partitions.prefix(execution_id)
        return bool(
            await self._wire.call_script(scripts.GRANT_SLOT, prefix, execution_id, version, patience=None)
        )
