"""Tails: all readers of topics in a process share one blocked XREAD per server (per partition on a cluster).

A reader requests the entries after an id and requests more when it has processed them, so a slow reader
delays no other. One read serves all requests. A request that comes while the read is blocked ends it by
CLIENT UNBLOCK, over the multiplexed connection, and is part of the next read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from polos_redis import tasks
from polos_redis.errors import ConnectionLostError, PolosError, RedisUnavailableError
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.wire import client_id

BLOCK_MS = 2000
BATCH = 128  # entries per topic and read; fewer while they are large
LEAST_BATCH = 4  # what a tail begins with
MOST_BYTES = 1 << 20  # of entries that one read should return
UNBLOCK_SECONDS = 0.02  # an unblock may come before the read it is meant for: repeat it
IDLE_SECONDS = 10.0  # without requests, after which the task ends; the connection stays
REFUSED_SECONDS = 0.05  # until the next read, after one that Redis refused

Entries = list[tuple[bytes, list[bytes]]]  # stream id, flat list of type and data


class Tails:
    """The tails of a process: one per server, or one per partition on a cluster."""

    def __init__(self, main: AnyWire, prefixes: Sequence[bytes], patience: float) -> None:
        tails = {tuple(group): Tail(main, group[0], patience) for group in main.groups(prefixes)}
        self._of = {prefix: tail for group, tail in tails.items() for prefix in group}
        self._tails = tails.values()

    async def next(self, key: bytes, after: bytes, timeout: float) -> Entries:
        """As `Tail.next`."""
        return await self.of(key).next(key, after, timeout)

    def of(self, key: bytes) -> Tail:
        """Returns the tail that reads a stream."""
        return self._of[key[: key.index(b"}") + 2]]

    async def close(self) -> None:
        await asyncio.gather(*(tail.close() for tail in self._tails))

    def abort(self) -> None:
        for tail in self._tails:
            tail.abort()


class Tail:
    """One blocked read and the requests it serves."""

    def __init__(self, main: AnyWire, prefix: bytes, patience: float) -> None:
        self._main = main
        self._prefix = prefix
        self._patience = patience
        self._wire = main.beside(prefix, name="polos-tail", timeout=BLOCK_MS / 1000 + 5)
        self._waiting: dict[bytes, list[tuple[bytes, asyncio.Future[Entries]]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._requested = asyncio.Event()
        self._batch = LEAST_BATCH
        self._blocked = False
        self._unblocker: asyncio.TimerHandle | None = None
        self._client_id: tuple[int, int | None] | None = None  # epoch, id (None: not permitted)

    async def next(self, key: bytes, after: bytes, timeout: float) -> Entries:
        """Returns the next entries of a stream after an id; empty if none came within `timeout` seconds."""
        future: asyncio.Future[Entries] = asyncio.get_running_loop().create_future()
        request = (after, future)
        self._waiting.setdefault(key, []).append(request)
        self._requested.set()
        if self._blocked:
            self._unblock()
        if self._task is None or self._task.done():
            self._task = tasks.spawn(self._run(), "polos-tail")
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            return []
        finally:
            others = self._waiting.get(key)
            if others is not None and request in others:
                others.remove(request)
                if not others:
                    del self._waiting[key]

    def _unblock(self) -> None:
        """End the blocked read; repeats the command until the read has ended."""
        if self._unblocker is not None or not self._blocked:
            return
        node = self._main.node(self._prefix)
        if self._client_id is None or self._client_id[1] is None:
            return  # a new request waits for the read's BLOCK_MS
        if node is not None and node.connected:
            unblocked = node.send("CLIENT", "UNBLOCK", self._client_id[1])
            unblocked.add_done_callback(tasks.mark_retrieved)  # not permitted: the reader waits for BLOCK_MS
        loop = asyncio.get_running_loop()
        self._unblocker = loop.call_later(UNBLOCK_SECONDS, self._unblock_again, context=tasks.OUTSIDE)

    def _unblock_again(self) -> None:
        self._unblocker = None
        self._unblock()

    async def _run(self) -> None:
        while True:
            self._requested.clear()
            if not self._waiting:
                try:
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._requested.wait()
                except TimeoutError:
                    if not self._waiting:
                        return
                continue
            try:
                found, starts = await self._read()
            except PolosError as error:
                self._fail(error)
                if getattr(error, "code", "UNBLOCKED") != "UNBLOCKED":
                    await asyncio.sleep(REFUSED_SECONDS)
                continue
            for key, entries in found or ():
                self._serve(key, entries, starts[key])
            # let the readers that were served ask again before the next read
            for _ in range(3):
                await asyncio.sleep(0)

    def _serve(self, key: bytes, entries: Entries, start: bytes) -> None:
        """Give the requests for a stream what was read after `start`. A request that came meanwhile for
        entries before that, or that is ahead of them all, waits for the next read."""
        waiting = self._waiting.pop(key, [])
        left = []
        for after, future in waiting:
            if future.done():
                continue
            fresh = [] if _after(start, after) else [(i, f) for i, f in entries if _after(i, after)]
            if fresh:
                future.set_result(fresh)
            else:
                left.append((after, future))
        if left:
            self._waiting[key] = left

    async def _read(self) -> tuple[Any, dict[bytes, bytes]]:
        """Returns the entries read, and the id after which each stream was read."""
        if not self._wire.connected:
            await self._wire.call("PING", patience=self._patience)
        if self._client_id is None or self._client_id[0] != self._wire.epoch:
            epoch = self._wire.epoch
            self._client_id = (epoch, await client_id(self._wire))
        starts = {
            name: min((after for after, _ in waiting), key=_order) for name, waiting in self._waiting.items()
        }
        if not starts:  # all requests ended while it connected
            return None, starts
        self._blocked = True
        try:
            found = await self._wire.send(
                "XREAD", "COUNT", self._batch, "BLOCK", BLOCK_MS, "STREAMS", *starts, *starts.values()
            )
            self._batch = _next_batch(self._batch, found or ())
            return found, starts
        finally:
            self._blocked = False
            if self._unblocker is not None:
                self._unblocker.cancel()
                self._unblocker = None

    def _fail(self, error: PolosError) -> None:
        if isinstance(error, ConnectionLostError):
            return  # read again over the next connection, from the same ids
        for waiting in self._waiting.values():
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
        self._waiting.clear()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._wire.close()
        self._fail(RedisUnavailableError("the client was closed"))

    def abort(self) -> None:
        self._wire.abort()


def _next_batch(batch: int, found: Sequence[tuple[bytes, Entries]]) -> int:
    """Returns how many entries per topic to read next, by the size of those that the last read returned."""
    size = sum(len(part) for _, entries in found for _, flat in entries for part in flat)
    if size > MOST_BYTES:
        return max(1, batch * MOST_BYTES // size)
    return min(BATCH, 2 * batch) if 4 * size <= MOST_BYTES else batch


def _order(stream_id: bytes) -> tuple[int, int]:
    ms, _, sequence = stream_id.partition(b"-")
    return int(ms), int(sequence or 0)


def _after(stream_id: bytes, other: bytes) -> bool:
    return _order(stream_id) > _order(other)
