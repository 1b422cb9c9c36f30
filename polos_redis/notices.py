"""What the scripts tell a process at once: its reply channel, by sharded PUBLISH.

A notice costs no memory and needs no acknowledgement; it may be lost (a broken connection), so whoever waits
for one also asks again by itself, and everybody asks again after a reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from polos_redis import keys, tasks
from polos_redis.errors import PolosError
from polos_redis.wire import Wire

logger = logging.getLogger("polos.notices")

REFUSED_SECONDS = 1.0


class Notices:
    """The reply channel of one process: one connection, however many wait."""

    def __init__(
        self,
        url: str,
        prefixes: Sequence[bytes],
        name: str,
        receive: Callable[[list[Any]], None],
        reconnected: Callable[[], None],
    ) -> None:
        self._channels = [prefix + keys.REPLY.encode() + name.encode() for prefix in prefixes]
        self._receive = receive
        self._reconnected = reconnected
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._wire = Wire(
            url,
            name="polos-notices",
            on_push=self._pushed,
            on_connect=self._subscribe,
            on_disconnect=self._lost,
        )

    async def start(self) -> None:
        """Be subscribed; raises what a call would when Redis can't be reached in time."""
        await self._wire.call("PING")

    async def _subscribe(self, wire: Wire) -> None:
        for channel in self._channels:
            await wire.send("SSUBSCRIBE", channel)
        if wire.epoch > 1:
            asyncio.get_running_loop().call_soon(self._reconnected, context=tasks.OUTSIDE)

    def _pushed(self, push: list[Any]) -> None:
        if push[0] == b"smessage":
            self._receive(msgpack.unpackb(push[2], raw=True))

    def _lost(self) -> None:
        if not self._closed:
            self._task = tasks.spawn(self._reconnect(), "polos-notices-reconnect")

    async def _reconnect(self) -> None:
        while not self._closed:
            try:
                await self._wire.call("PING", patience=None)
                return
            except PolosError as error:  # refused: a password is being changed, say
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
