"""Notices: what scripts send to a process without delay, through its reply channel (sharded PUBLISH).

A notice takes no memory in Redis and no acknowledgement, and it may be lost (with a connection, or when a
slot moves). So code that waits for a notice also polls from time to time, and after every reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from polos_redis import tasks
from polos_redis.errors import PolosError
from polos_redis.state import keys
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.wire import Wire

logger = logging.getLogger("polos.notices")

REFUSED_SECONDS = 1.0


class Notices:
    """The reply channels of one process, one per partition: on one connection per server, on a cluster on one
    per partition."""

    def __init__(
        self,
        wire: AnyWire,
        prefixes: Sequence[bytes],
        name: str,
        receive: Callable[[list[Any]], None],
        reconnected: Callable[[], None],
    ) -> None:
        self._subscriptions = [
            _Subscription(wire, group, name, receive, reconnected) for group in wire.groups(prefixes)
        ]
        self._of = {prefix: one for one in self._subscriptions for prefix in one.prefixes}

    async def start(self, *prefixes: bytes, patience: float | None) -> None:
        """Subscribe in these partitions. Raises what any call raises when Redis can't be reached for
        `patience` seconds (None: never)."""
        for prefix in prefixes:
            if not self._of[prefix].started:
                await self._of[prefix].start(patience)

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._subscriptions))

    def abort(self) -> None:
        for one in self._subscriptions:
            one.abort()


class _Subscription:
    """The reply channels on one connection."""

    def __init__(
        self,
        wire: AnyWire,
        prefixes: list[bytes],
        name: str,
        receive: Callable[[list[Any]], None],
        reconnected: Callable[[], None],
    ) -> None:
        self.prefixes = prefixes
        self.started = False
        self._channels = [prefix + keys.REPLY.encode() + name.encode() for prefix in prefixes]
        self._receive = receive
        self._reconnected = reconnected
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._wire = wire.beside(
            prefixes[0],
            name="polos-notices",
            on_push=self._pushed,
            on_connect=self._subscribe,
            on_disconnect=self._lost,
        )

    async def start(self, patience: float | None) -> None:
        await self._wire.call("PING", patience=patience)
        self.started = True

    async def _subscribe(self, wire: Wire) -> None:
        for channel in self._channels:
            await wire.send("SSUBSCRIBE", channel)
        if wire.epoch > 1:
            asyncio.get_running_loop().call_soon(self._reconnected, context=tasks.OUTSIDE)

    def _pushed(self, push: list[Any]) -> None:
        if push[0] == b"smessage":
            self._receive(msgpack.unpackb(push[2], raw=True))
        elif push[0] == b"sunsubscribe":
            self._wire.drop("the slot of the reply channel has moved")

    def _lost(self) -> None:
        if not self._closed:
            self._task = tasks.spawn(self._reconnect(), "polos-notices-reconnect")

    async def _reconnect(self) -> None:
        while not self._closed:
            try:
                await self._wire.call("PING", patience=None)
                return
            except PolosError as error:  # refused, as when a password is being changed
                if not self._closed:
                    logger.warning("the reply channel is closed", extra={"error": str(error)})
                    await asyncio.sleep(REFUSED_SECONDS)

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        await self._wire.close()

    def abort(self) -> None:
        self._closed = True
        self._wire.abort()
