"""The ledger of deliveries: which entries a worker holds, and the ways to return one.

Redis keeps an entry pending for its consumer until it is deleted. An entry that is pending for this worker
and not in the ledger was lost on its way here, so reading hands it back. A returned entry stays in the ledger
until the script's reply has come; if the script is refused, the entry is found pending later.
"""

from __future__ import annotations

from collections.abc import Sequence

from polos_redis.runtime.activation import Activation
from polos_redis.state.fencing import Fence
from polos_redis.state.store import Store
from polos_redis.worker.background import Background

Delivery = tuple[bytes, str, bytes]  # an entry's partition, queue and id: two streams may have the same id


class Deliveries:
    """The deliveries that one worker holds."""

    def __init__(
        self, store: Store, worker_id: str, background: Background, *, put_back_ms: int, max_deliveries: int
    ) -> None:
        self._store = store
        self._worker_id = worker_id
        self._background = background
        self._put_back_ms = put_back_ms
        self._max_deliveries = max_deliveries
        self._held: set[Delivery] = set()
        self._handed_back: set[Activation] = set()  # their entries are on the way back to the queue

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, delivery: Delivery) -> bool:
        """Enter a delivery that was read; returns whether it is new. One that is held already comes again
        from a store that went back in time; whoever holds it finds out what is lost."""
        new = delivery not in self._held
        self._held.add(delivery)
        return new

    def snapshot(self) -> frozenset[Delivery]:
        """Returns the deliveries held now."""
        return frozenset(self._held)

    def release(self, activation: Activation) -> None:
        """Remove the entry of an ended activation, unless it is being returned, which removes it."""
        if activation not in self._handed_back:
            fence = activation.fence
            self._held.discard((fence.prefix, activation.queue, fence.entry))

    def hand_back(self, activation: Activation, *, pause: bool, reason: str = "") -> None:
        """Return an activation's entry to the queue, at once or after a pause, which grows if there is a
        reason to store. An entry that is no longer the live one of its execution is deleted."""
        if activation not in self._handed_back:
            self._handed_back.add(activation)
            self._background.spawn(self._hand_back(activation, pause, reason))

    async def _hand_back(self, activation: Activation, pause: bool, reason: str) -> None:
        try:
            if pause:
                await self._put_back(activation.fence, activation.queue, reason)
            else:
                await self._let_go((activation.fence.prefix, activation.queue, activation.fence.entry))
        finally:
            self._handed_back.discard(activation)

    def let_go(self, delivery: Delivery) -> None:
        """Return an entry that no activation was created for."""
        self._background.spawn(self._let_go(delivery))

    async def _let_go(self, delivery: Delivery) -> None:
        prefix, queue, entry = delivery
        try:
            await self.requeue(prefix, queue, [entry])
        finally:
            self._held.discard(delivery)

    def reserve(self, fence: Fence, queue: str, to: str) -> None:
        """Move an entry to a reserved stream, for workers that know its workflow."""
        self._background.spawn(self._reserve(fence, queue, to))

    async def _reserve(self, fence: Fence, queue: str, to: str) -> None:
        try:
            await self._store.queues.reserve(fence, queue, to)
        finally:
            self._held.discard((fence.prefix, queue, fence.entry))

    async def pin(self, fence: Fence, queue: str, to: str, version: str) -> bool:
        """Start an execution with a version, and move its entry to the stream of that; returns False if it
        has started before: then this worker still holds it."""
        pinned = True
        try:
            pinned = await self._store.queues.reserve(fence, queue, to, version)
        finally:
            if pinned:
                self._held.discard((fence.prefix, queue, fence.entry))
        return pinned

    async def _put_back(self, fence: Fence, queue: str, reason: str = "") -> None:
        try:
            await self._store.queues.put_back(fence, queue, self._put_back_ms, reason)
        finally:
            self._held.discard((fence.prefix, queue, fence.entry))

    async def requeue(self, prefix: bytes, queue: str, entries: Sequence[bytes]) -> None:
        """Return entries of one queue at once. A delivery that failed here is not counted as lost."""
        await self._store.queues.requeue(
            prefix, queue, self._worker_id, entries, max_deliveries=self._max_deliveries
        )
