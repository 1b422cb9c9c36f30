"""Sessions: the connections of a client in one event loop of one process."""

from __future__ import annotations

import asyncio
import copy
import os
import weakref
from typing import Any, Self

from polos_redis import tasks
from polos_redis.connection.notices import Notices
from polos_redis.connection.tails import Tails
from polos_redis.errors import ExecutionNotFoundError
from polos_redis.state import scripts
from polos_redis.state.clock import SkippingWire, skipping
from polos_redis.state.executions import FINISHED, Ended
from polos_redis.state.layout import Layout, can_read
from polos_redis.state.store import Store
from polos_redis.state.suspensions import acknowledges
from polos_redis.values.text import text
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.durable import Durability, DurableWire
from polos_redis.wire.routing import wire_to

RECHECK_SECONDS = 10.0  # a notice may be lost: read the execution itself this often
FORMAT_SECONDS = 10.0  # between two questions for the namespace's format


class Session:
    """The wire, the reply channel and the tails of one event loop. A forked child needs its own.

    `checked` is whether a call may go ahead without `check`. While the session is used it becomes false every
    ten seconds, as the namespace may have been upgraded since.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        partitions: int,
        patience: float,
        credentials: CredentialProvider | None = None,
    ) -> None:
        self.pid = os.getpid()
        self._url, self._credentials = url, credentials
        self.wire = wire_to(
            url,
            name="polos-client",
            scripts=scripts.ALL,
            partitions=partitions,
            credentials=credentials,
            verify=Layout(url, namespace, partitions, credentials).verify,
        )
        self.store = Store(self.wire, namespace, partitions, patience)
        self.name = os.urandom(6).hex()
        self.notices = Notices(self.wire, self.store.prefixes, self.name, self._received, self._recheck)
        self.tail = Tails(self.wire, self.store.prefixes, patience)
        self.is_worker = False  # that of a worker, which looks for itself
        self.checked = False
        self._has_layout = False
        self._is_too_old = False
        self._durable: dict[Durability, tuple[DurableWire, Store]] = {}
        self._preparing = asyncio.Lock()
        self._ends: dict[bytes, list[asyncio.Future[Ended | None]]] = {}
        self._patient: Self | None = None

    def without_patience_limit(self) -> Self:
        """Returns the same connections for calls that wait for Redis without end."""
        if self._patient is None:
            patient = self._patient = copy.copy(self)
            partitions = self.store.partitions
            patient.store = Store(self.store.wire, partitions.namespace, partitions.number, patience=None)
            patient.is_worker = True
        return self._patient

    async def check(self) -> None:
        """Check that the namespace has this layout, and a format that this release can read. Raises
        `ConfigurationError`, or as one of those `ReleaseTooOldError`.

        The layout is checked once. The format is asked for every ten seconds, without waiting for it; once it
        was too new, each call waits for it. Workers ask with their leases, also for the code they run.
        """
        partitions = self.store.partitions
        if not self._has_layout:
            if await partitions.check():
                wire = skipping(self.wire)
                self.store = Store(wire, partitions.namespace, partitions.number, partitions.patience)
            self._has_layout = True
        elif self._is_too_old:
            if tasks.OWNER.get() is None:
                await partitions.check_reader()
                self._is_too_old = False
            return
        else:
            asked = partitions.ask_reader()
            asked.add_done_callback(self._hear_format, context=tasks.OUTSIDE)
        self.checked = True
        if not self.is_worker:
            loop = asyncio.get_running_loop()
            loop.call_later(FORMAT_SECONDS, _check_again, weakref.ref(self), context=tasks.OUTSIDE)

    def _hear_format(self, asked: asyncio.Future[bytes | None]) -> None:
        answered = not asked.cancelled() and asked.exception() is None  # if not, it is asked again later
        if answered and not can_read(text(asked.result())):
            self._is_too_old, self.checked = True, False
            self._recheck()

    async def durable_store(self, durability: Durability, replicas: int) -> Store:
        """Returns the store whose acknowledged calls are confirmed by a DurableWire, made on first use.

        Raises `ConfigurationError` if the servers can't confirm writes as `durability` says.
        """
        if durability in self._durable:
            return self._durable[durability][1]
        async with self._preparing:
            if durability not in self._durable:
                partitions = self.store.partitions
                wire = DurableWire(
                    self._url,
                    durability,
                    replicas,
                    scripts.CONFIRM,
                    acknowledges,
                    partitions=partitions.number,
                    credentials=self._credentials,
                )
                try:
                    await wire.check(partitions.prefixes, partitions.patience)
                except BaseException:
                    await wire.close()
                    raise
                store = Store(
                    self.store.wire,
                    partitions.namespace,
                    partitions.number,
                    partitions.patience,
                    SkippingWire(wire) if self.store.clock.skips else wire,
                )
                self._durable[durability] = wire, store
            return self._durable[durability][1]

    async def wait_for_end(self, execution_id: str) -> Ended:
        """Wait until an execution has ended; returns its end. Raises `ExecutionNotFoundError`."""
        partitions = self.store.partitions
        await self.notices.start(partitions.prefix(execution_id), patience=partitions.patience)
        name = execution_id.encode("utf-8", "surrogatepass")
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[Ended | None] = loop.create_future()
            waiting = self._ends.setdefault(name, [])
            waiting.append(future)
            try:
                if not self.checked:
                    await self.check()
                ended = await self.store.executions.watch(execution_id, self.name)
                if ended is None:
                    raise ExecutionNotFoundError(execution_id)
                if ended.status in FINISHED:
                    return ended
                recheck = loop.call_later(RECHECK_SECONDS, _wake, future)
                try:
                    ended = await future
                finally:
                    recheck.cancel()
                if ended is not None:
                    return ended
            finally:
                waiting.remove(future)
                if not waiting:
                    self._ends.pop(name, None)

    def _received(self, notice: list[Any]) -> None:
        if notice[0] != b"done":
            return
        _, execution_id, status, field, value = notice
        # None: read the execution again, as its value was too large or it failed and may have been retried
        ended: Ended | None = None
        if value is not None and value is not False:
            if field == b"output":
                ended = Ended(text(status), output=value)
            elif field == b"cancelled_by":
                ended = Ended(text(status), cancelled_by=text(value) or None)
        for future in self._ends.get(execution_id, ()):
            if not future.done():
                future.set_result(ended)

    def _recheck(self) -> None:
        """Make every waiter read its execution again."""
        for futures in self._ends.values():
            for future in futures:
                _wake(future)

    async def close(self) -> None:
        """Close the connections; calls of `wait_for_end` then raise `RedisUnavailableError`."""
        await self.tail.close()
        await self.notices.close()
        for durable, _ in self._durable.values():
            await durable.close()
        await self.wire.close()
        self._recheck()

    def abort(self) -> None:
        """Drop the connections; their loop is gone, so they can't be closed."""
        durable = [wire for wire, _ in self._durable.values()]
        for connection in (self.tail, self.notices, *durable, self.wire):
            connection.abort()


def _wake(future: asyncio.Future[Ended | None]) -> None:
    if not future.done():
        future.set_result(None)


def _check_again(session: weakref.ref[Session]) -> None:
    if (found := session()) is not None:
        found.checked = False
