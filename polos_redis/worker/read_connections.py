"""The reading connections of a worker: one per server, or one per partition on a cluster, where a blocked
read covers one cluster slot.

A worker never reads more than it can run, so the readers share its free slots: a slot that one has requested
is not free for the others. A reader that got nothing the last time requests one entry of each queue; one that
requests more, or slots that others need as well, blocks only for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from polos_redis.wire.routing import AnyWire
from polos_redis.wire.wire import Wire

TURN_SECONDS = 0.05  # how long a read may block that others wait for
UNBLOCK_SECONDS = 0.02  # between attempts to end the blocked reads


@dataclass(slots=True, eq=False)
class Reader:
    """One connection and the partitions it reads."""

    wire: Wire
    prefixes: list[bytes]
    client_id: int | None = None
    requested: int = 0  # entries that the current read may return
    quiet: bool = True  # whether its last read returned nothing

    @property
    def reconnects(self) -> int:
        """The number of reconnects."""
        return max(0, self.wire.epoch - 1)


class Readers:
    """All reading connections of a worker. `block_seconds` is how long a read may wait at the server; `room`
    is set when slots that a read had requested are free again."""

    def __init__(
        self, main: AnyWire, prefixes: Sequence[bytes], block_seconds: float, room: asyncio.Event
    ) -> None:
        self.room = room
        self._main = main
        self._block_seconds = block_seconds
        self._readers = [
            Reader(main.beside(group[0], name="polos-reader", timeout=block_seconds + 5), group)
            for group in main.groups(prefixes)
        ]

    def __iter__(self) -> Iterator[Reader]:
        return iter(self._readers)

    def share(self, reader: Reader, free: int, streams: int) -> tuple[int, float]:
        """Returns how many entries a reader may request in its next read of `streams` streams with `free`
        slots (0: it has to wait for a slot), and how many seconds the read may block."""
        free -= sum(other.requested for other in self._readers)
        if len(self._readers) == 1 or free <= 0:
            return max(0, free), self._block_seconds
        count = min(free, streams) if reader.quiet else free
        idle = sum(not other.requested for other in self._readers if other is not reader)
        fair = reader.quiet and free - count >= idle  # no other reader has to wait for these slots
        return count, self._block_seconds if fair else TURN_SECONDS

    @asynccontextmanager
    async def reading(self, reader: Reader, count: int) -> AsyncIterator[None]:
        """The span of one read for `count` entries; after it the other readers have their turn."""
        reader.requested = count
        try:
            yield
        finally:
            reader.requested = 0
            if len(self._readers) > 1:
                self.room.set()
                await asyncio.sleep(0)

    async def unblock(self) -> None:
        """End blocked reads early, if the server permits it, until cancelled."""
        while True:
            await asyncio.gather(*map(self._unblock, self._readers), return_exceptions=True)
            await asyncio.sleep(UNBLOCK_SECONDS)

    async def _unblock(self, reader: Reader) -> None:
        node = self._main.node(reader.prefixes[0])
        if reader.requested and reader.client_id is not None and node is not None and node.connected:
            await node.send("CLIENT", "UNBLOCK", reader.client_id)

    async def close(self) -> None:
        await asyncio.gather(*(reader.wire.close() for reader in self._readers))
