"""Reading: the loop that takes entries from the queues on one connection and passes them to dispatch.

The queues take turns where there are fewer free slots than queues. While the lease is stale nothing is read.
Twice per lease, and after a reconnect, the pending list of this worker is reconciled with the ledger of its
deliveries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from polos_redis.errors import ConnectionLostError, PolosError
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.text import raw, text
from polos_redis.wire.wire import FIRST_PAUSE, client_id
from polos_redis.worker.dispatch import Dispatch
from polos_redis.worker.host import WorkerHost
from polos_redis.worker.read_connections import TURN_SECONDS, Reader, Readers
from polos_redis.worker.reserved import ReservedStreams

logger = logging.getLogger("polos.worker")

READ_COUNT = 256  # entries per queue and read
RECONCILE_BATCH = 100
LONGEST_READ_PAUSE = 0.25  # seconds between attempts at a read that the server can't serve now
REFUSED_SECONDS = 1.0  # between attempts at a read that the server refuses


async def make_groups(store: Store, prefixes: Sequence[bytes], queues: Sequence[str]) -> None:
    """Create the streams and consumer groups of queues that don't have them."""
    for prefix in prefixes:
        for queue in queues:
            await store.queues.make_group(prefix, queue)


class Reading:
    """Reads the queues of one reader's partitions."""

    def __init__(
        self,
        reader: Reader,
        readers: Readers,
        queues: Sequence[str],
        host: WorkerHost,
        dispatch: Dispatch,
        reserved: ReservedStreams,
    ) -> None:
        self.reader = reader
        self._readers = readers
        self._queues = queues
        self._host = host
        self._lease = host.lease
        self._deliveries = host.deliveries
        self._dispatch = dispatch
        self.reserved = reserved
        self._streams: dict[bytes, tuple[bytes, str]] = {}
        self._groups_lost = False
        self._epoch = -1
        self._turn = 0  # of the queues, if not all can be read at once
        self._reconciled = float("-inf")
        self._pause = FIRST_PAUSE

    async def run(self) -> None:
        """Read until the worker drains."""
        while not self._host.draining:
            try:
                await self._prepare()
                await self._read()
            except ConnectionLostError as error:
                if getattr(error, "code", "") != "UNBLOCKED":
                    if self._pause == FIRST_PAUSE:
                        logger.warning("reading has to wait", extra={"error": str(error)})
                    await asyncio.sleep(self._pause)
                    self._pause = min(2 * self._pause, LONGEST_READ_PAUSE)
            except PolosError as error:
                if getattr(error, "code", "") == "NOGROUP":  # the stream was lost with the store
                    self._groups_lost = True
                else:
                    logger.error("the queue can't be read", extra={"error": str(error)})
                    await asyncio.sleep(REFUSED_SECONDS)

    async def _prepare(self) -> None:
        """Wait for a fresh lease and a connection, and reconcile the pending list if it is time."""
        wire = self.reader.wire
        for prefix in self.reader.prefixes:
            await self._lease.wait_until_fresh(prefix)
        if self._groups_lost:
            await make_groups(self._host.store, self.reader.prefixes, self._queues)
            self.reserved.lost()
            self._groups_lost = False
        if self._epoch != wire.epoch or not wire.connected:
            await wire.call("PING", patience=None)
            self.reader.client_id = await client_id(wire)
            self._epoch, self._reconciled = wire.epoch, float("-inf")
        if self.reserved.are_due():
            await self.reserved.look()
            self._find_streams()
        now = asyncio.get_running_loop().time
        if now() - self._reconciled > self._lease.seconds / 2:
            await self.reconcile()
            self._reconciled = now()

    def _find_streams(self) -> None:
        """The streams of all queues, which a workflow that is defined later may bring, and the reserved
        ones."""
        streams = [(prefix, queue) for prefix in self.reader.prefixes for queue in self._queues]
        self._streams = {
            prefix + keys.QUEUE.encode() + raw(name): (prefix, name)
            for prefix, name in [*streams, *self.reserved]
        }

    async def _read(self) -> None:
        """Read as many entries as there are free slots, or wait for a slot."""
        names = list(self._streams)
        free, block = self._readers.share(self.reader, self._host.free_slots, len(names))
        if not free:
            self._readers.room.clear()
            await self._readers.room.wait()
            return
        if free < len(names):
            self._turn = (self._turn + free) % len(names)
            names = (names + names)[self._turn : self._turn + free]
            block = min(block, TURN_SECONDS)
        count = min(READ_COUNT, max(1, free // len(names)))
        async with self._readers.reading(self.reader, count * len(names)):
            lapses = self._lease.lapses.copy()
            reply = await self.reader.wire.send(
                "XREADGROUP", "GROUP", keys.GROUP, self._host.worker_id, "COUNT", count,
                "BLOCK", max(1, int(block * 1000)), "STREAMS", *names, *([">"] * len(names)),
            )  # fmt: skip
            self._pause, self.reader.quiet = FIRST_PAUSE, not reply
            for key, entries in reply or ():
                prefix, queue = self._streams[key]
                for entry, flat in entries:
                    self._dispatch.deliver((prefix, queue, entry), flat, lapses[prefix])

    async def reconcile(self) -> None:
        """Hand back entries that are pending for this worker but not held: a reply was lost, or the store
        went back in time. Runs on the reading connection with no read outstanding, so no entry is on its way.
        """
        for key, (prefix, queue) in self._streams.items():
            after = "-"
            held = self._deliveries.snapshot()  # an entry returned meanwhile is not unknown
            while True:
                rows = await self.reader.wire.send(
                    "XPENDING", key, keys.GROUP, after, "+", RECONCILE_BATCH, self._host.worker_id
                )
                unknown = [row[0] for row in rows if (prefix, queue, row[0]) not in held]
                if unknown:
                    logger.warning("handed back what never arrived", extra={"entries": len(unknown)})
                    await self._deliveries.requeue(prefix, queue, unknown)
                if len(rows) < RECONCILE_BATCH:
                    break
                after = "(" + text(rows[-1][0])
