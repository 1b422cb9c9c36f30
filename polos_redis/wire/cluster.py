"""Connections of one process to a Redis Cluster: one multiplexed wire per master.

A call goes to the node that owns its key's slot. A redirection only means that the slot map is outdated: the
call was not executed, so it is repeated. An activation's write fails instead, like any write whose connection
was lost, with a new `epoch`, and the activation decides how to continue.

While a slot migrates key by key, its partition pauses. A script declares only the prefix of the many keys it
touches, so following ASK would run it on a node that has only some of them. The wire therefore waits until
the migration is over, as Redis asks clients to do (TRYAGAIN) for calls with several keys.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import Future
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

from polos_redis.errors import ConnectionLostError, RedisUnavailableError
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.discovery import ASK_SECONDS, read_slots
from polos_redis.wire.replies import CallLostError
from polos_redis.wire.transport import Arg, Script
from polos_redis.wire.urls import RedisUrl, parse
from polos_redis.wire.wire import FIRST_PAUSE, LONGEST_PAUSE, Wire

SLOTS = 16384
REACH_SECONDS = 0.5  # how long to try one node before asking the others who owns the slot now
REFRESH_PAUSE = 0.05  # seconds between two refreshes of the slot map
MIGRATION_PAUSE = 0.25  # longest pause in seconds between attempts while a slot migrates


def slot_of(key: bytes) -> int:
    """The hash slot of a polos key: that of its hash tag, the part in braces."""
    tag = key[key.index(b"{") + 1 : key.index(b"}")]
    return crc_hqx(tag, 0) % SLOTS


def prefix_of(command: Sequence[Arg]) -> bytes | None:
    """The prefix of the partition that a command belongs to: that of its first polos key."""
    for arg in command:
        if not isinstance(arg, int):
            key = arg if isinstance(arg, bytes) else arg.encode()
            if key.startswith(b"polos:{"):
                return key[: key.index(b"}") + 2]
    return None


class ClusterWire:
    """`Wire` for a cluster: the same calls, each sent to the master that owns its key's slot.

    `epoch` rises when a connection is made and when a partition in use moves, because in both cases the state
    may have gone back in time. A ClusterWire belongs to the event loop on which it is first used.
    """

    def __init__(
        self,
        target: RedisUrl,
        *,
        name: str,
        scripts: Sequence[Script],
        timeout: float = 5.0,
        credentials: CredentialProvider | None = None,
    ) -> None:
        self.epoch = 0
        self.address = target.address
        self._target = target
        self._name, self._scripts, self.credentials = name, scripts, credentials
        self._timeout = timeout
        self._slots: dict[int, str] = {}  # slot -> URL of its owner
        self._nodes: dict[str, Wire] = {}  # by URL
        self._owners: dict[bytes, Wire] = {}  # by prefix, of the partitions in use
        self._refresh: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0
        self._closing: set[Future[None]] = set()  # connections to nodes that own no slots any more
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether any node can be called."""
        return any(node.connected for node in self._nodes.values())

    # --- calls ---

    def send(self, *args: Arg) -> Future[Any]:
        """Like `Wire.send`; a command without a key goes to any node."""
        node = self._owner(prefix_of(args))
        return self._unsent() if node is None else node.send(*args)

    def run(self, script: Script, key: bytes, *args: Arg) -> Future[Any]:
        """Like `Wire.run`."""
        node = self._owners.get(key) or self._owner(key)
        return self._unsent() if node is None else node.run(script, key, *args)

    async def call(self, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call`; a command without a key goes to any node."""
        return await self._repeat(prefix_of(args), lambda node: node.send(*args), patience)

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call_script`."""
        node = self._owners.get(key)
        if node is not None and node.connected and node.room():
            try:
                return await node.run(script, key, *args)
            except CallLostError:
                pass
        return await self._repeat(key, lambda node: node.run(script, key, *args), patience)

    async def repeat(self, key: bytes, send: Callable[[Wire], Future[Any]], patience: float | None) -> Any:
        """Like `Wire.repeat`."""
        return await self._repeat(prefix_of((key,)), send, patience)

    async def ready(self, key: bytes) -> None:
        """Wait until the node that owns a key's slot can be called and the slot is not migrating."""
        await self._repeat(key, lambda node: node.send("PING"), None)
        await self.call("EXISTS", key, patience=None)

    async def _repeat(
        self, prefix: bytes | None, send: Callable[[Wire], Future[Any]], patience: float | None
    ) -> Any:
        loop = asyncio.get_running_loop()
        until = float("inf") if patience is None else loop.time() + patience
        pause, stale = FIRST_PAUSE, False
        while True:
            try:
                if stale:
                    await self._refresh_slots()
                stale = True  # until the node is reached
                node = self._owner(prefix) or await self._find(prefix)
                if not node.connected:
                    await node.reach(min(until, loop.time() + REACH_SECONDS))
                stale = False
                if not node.room():
                    await node.wait_for_room()
                return await send(node)
            except (CallLostError, RedisUnavailableError) as error:
                code = getattr(error, "code", "")
                stale = stale or code == "CLUSTERDOWN"  # perhaps only this node is cut off
                longest = MIGRATION_PAUSE if code in ("MOVED", "ASK", "TRYAGAIN") else LONGEST_PAUSE
                left = until - loop.time()
                if self._closed:
                    raise RedisUnavailableError(f"the connection to {self.address} was closed") from None
                if left <= 0:
                    raise RedisUnavailableError(
                        f"{self.address} could not serve a call within {patience:g} s: {error}"
                    ) from error
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, longest)

    def _unsent(self) -> Future[Any]:
        future: Future[Any] = asyncio.get_running_loop().create_future()
        state = "is closed" if self._closed else "is not established yet"
        future.set_exception(CallLostError(f"the connection to {self.address} {state}", sent=False))
        future.exception()  # keeps asyncio from logging it if nobody awaits the future
        return future

    # --- nodes, for callers that need more than calls ---

    def groups(self, prefixes: Sequence[bytes]) -> list[list[bytes]]:
        """Groups of partitions that one blocking read can cover: each alone, since each has its own slot."""
        return [[prefix] for prefix in prefixes]

    def beside(self, key: bytes, **options: Any) -> Wire:
        """A separate connection, with these options, to a key's node. It follows the slot when that moves."""
        prefix = prefix_of((key,))

        async def locate() -> str:
            owner = self._owner(prefix)
            if owner is None or not owner.connected:
                owner = await self._find(prefix)
            return owner.url

        return Wire(
            self._target.seeds[0],
            locate=locate,
            on_moved=self._moved,
            credentials=self.credentials,
            **options,
        )

    def node(self, key: bytes) -> Wire | None:
        """The connection to the node that owns a key's slot, if known."""
        return self._owner(prefix_of((key,)))

    async def nodes(self) -> list[Wire]:
        """The connections to all masters that own slots."""
        await self._refresh_slots()
        return list(self._nodes.values())

    # --- the slot map ---

    def _owner(self, prefix: bytes | None) -> Wire | None:
        """The node that owns a partition, if known; without a prefix any node, preferably a connected one."""
        if prefix is None:
            nodes = sorted(self._nodes.values(), key=lambda node: not node.connected)
            return nodes[0] if nodes else None
        owner = self._owners.get(prefix)
        if owner is None and (url := self._slots.get(slot_of(prefix))) is not None:
            owner = self._owners[prefix] = self._wire_to(url)
        return owner

    async def _find(self, prefix: bytes | None) -> Wire:
        """The node that owns a partition, according to a fresh slot map."""
        await self._refresh_slots()
        owner = self._owner(prefix)
        if owner is None:
            raise RedisUnavailableError(f"{self.address} has a slot that no node serves")
        return owner

    def _wire_to(self, url: str) -> Wire:
        node = self._nodes.get(url)
        if node is None:
            node = self._nodes[url] = Wire(
                url,
                name=self._name,
                scripts=self._scripts,
                timeout=self._timeout,
                on_connect=self._connected,
                on_moved=self._moved,
                credentials=self.credentials,
            )
        return node

    async def _connected(self, node: Wire) -> None:
        self.epoch += 1

    def _moved(self, text: str) -> None:
        """Apply a MOVED reply, which names a slot and the host:port of its owner."""
        _, slot, address = text.split(" ")[:3]
        host, _, port = address.rpartition(":")
        owner = self._target.server(host, int(port))
        if self._slots.get(int(slot)) != owner:
            self._learn({**self._slots, int(slot): owner})

    def _learn(self, slots: dict[int, str]) -> None:
        self._slots = slots
        for prefix, node in list(self._owners.items()):
            if slots.get(slot_of(prefix)) != node.url:
                del self._owners[prefix]
                self.epoch += 1

    async def _refresh_slots(self) -> None:
        """Read the slot map from the cluster. Concurrent callers share one refresh."""
        if self._closed:
            raise RedisUnavailableError(f"the connection to {self.address} was closed: create a new one")
        if self._refresh is None:
            # in a fresh context: a task factory must not attribute this task to the caller
            self._refresh = asyncio.get_running_loop().create_task(
                self._ask_nodes(), name=f"polos: read the slots of {self.address}", context=Context()
            )
            self._refresh.add_done_callback(self._refreshed)
        refresh = self._refresh
        await asyncio.wait((refresh,))
        if refresh.cancelled():
            raise RedisUnavailableError(f"the connection to {self.address} was closed")
        if (error := refresh.exception()) is not None:
            raise error.with_traceback(None)

    def _refreshed(self, refresh: asyncio.Task[None]) -> None:
        self._refresh, self._refreshed_at = None, refresh.get_loop().time()
        if not refresh.cancelled():
            refresh.exception()  # keeps asyncio from logging it if nobody waits any more

    async def _ask_nodes(self) -> None:
        """Apply the slot map of the first node that answers: connected ones, then seeds, then all others."""
        await asyncio.sleep(self._refreshed_at + REFRESH_PAUSE - asyncio.get_running_loop().time())
        failures: list[str] = []
        nodes = list(self._nodes.values())
        random.shuffle(nodes)
        candidates: list[Wire | str] = [node for node in nodes if node.connected]
        candidates += self._target.seeds
        candidates += [node.url for node in nodes if not node.connected]
        for node in candidates:
            try:
                async with asyncio.timeout(2 * ASK_SECONDS):
                    slots = await read_slots(self._target, node, self.credentials)
            except (ConnectionLostError, RedisUnavailableError) as error:
                failures.append(str(error))
            except TimeoutError:
                address = node.address if isinstance(node, Wire) else parse(node).address
                failures.append(f"{address} did not answer")
            else:
                self._apply(slots)
                return
        raise RedisUnavailableError(f"no node of {self.address} could be reached: {'; '.join(failures)}")

    def _apply(self, slots: dict[int, str]) -> None:
        """Connect to the owners of a slot map, and close the connections to all other nodes."""
        self._learn(slots)
        owners = set(slots.values())
        for url in owners:
            self._wire_to(url)
        for url in self._nodes.keys() - owners:
            closing = asyncio.ensure_future(self._nodes.pop(url).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    # --- closing ---

    async def close(self) -> None:
        """Like `Wire.close`."""
        self._closed = True
        if self._refresh is not None:
            self._refresh.cancel()
        await asyncio.gather(*(node.close() for node in self._nodes.values()), *self._closing)

    def abort(self) -> None:
        """Like `Wire.abort`."""
        self._closed = True
        for node in self._nodes.values():
            node.abort()
