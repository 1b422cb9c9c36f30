"""The connections of one process to a Redis Cluster: one multiplexed wire per master.

A call goes to the node that its key lives on. Redirections are no more than a reason to look again: a call
that met one has not been executed, so it is repeated (or, if it is an activation's write, fails as any write
whose connection was lost, with a new `epoch`, and the activation decides).

While a slot migrates key by key, its partition stands still. A script touches many keys, of which it declares
the prefix alone; following ASK would run it on a node that has some of them only. So an ASK is waited out, as
Redis itself wants it (TRYAGAIN) of calls that name several keys.
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
from polos_redis.wire.discovery import ASK_SECONDS, read_slots
from polos_redis.wire.replies import CallLostError
from polos_redis.wire.transport import Arg, Script
from polos_redis.wire.urls import RedisUrl, parse
from polos_redis.wire.wire import FIRST_PAUSE, LONGEST_PAUSE, Wire

SLOTS = 16384
REACH_SECONDS = 0.5  # for a node to be reached before the others are asked who owns the slot now
LOOK_PAUSE = 0.05  # seconds between two looks
MIGRATION_PAUSE = 0.25  # seconds at most between attempts while a slot migrates


def slot_of(key: bytes) -> int:
    """The hash slot of a key of ours: that of what stands between its braces."""
    tag = key[key.index(b"{") + 1 : key.index(b"}")]
    return crc_hqx(tag, 0) % SLOTS


def prefix_of(command: Sequence[Arg]) -> bytes | None:
    """The partition's prefix in a command: that of its first argument that is a key of ours."""
    for arg in command:
        if not isinstance(arg, int):
            key = arg if isinstance(arg, bytes) else arg.encode()
            if key.startswith(b"polos:{"):
                return key[: key.index(b"}") + 2]
    return None


class ClusterWire:
    """What `Wire` is for one server, for a cluster: the same calls, each sent to where its key lives.

    `epoch` rises when a connection was made and when a partition in use has moved: in both cases the state
    may have gone back in time. Belongs to the event loop it is first used on.
    """

    def __init__(self, target: RedisUrl, *, name: str, scripts: Sequence[Script]) -> None:
        self.epoch = 0
        self.address = target.address
        self._target = target
        self._name, self._scripts = name, scripts
        self._slots: dict[int, str] = {}  # -> the URL of the owner
        self._nodes: dict[str, Wire] = {}  # by URL
        self._owners: dict[bytes, Wire] = {}  # by prefix: the partitions in use
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._leaving: set[Future[None]] = set()  # the ends of connections to nodes that own nothing now
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether any node can be called."""
        return any(node.connected for node in self._nodes.values())

    # --- calls ---

    def send(self, *args: Arg) -> Future[Any]:
        """As `Wire.send`; a command without a key goes to any node."""
        node = self._owner(prefix_of(args))
        return self._unsent() if node is None else node.send(*args)

    def run(self, script: Script, key: bytes, *args: Arg) -> Future[Any]:
        """As `Wire.run`."""
        node = self._owners.get(key) or self._owner(key)
        return self._unsent() if node is None else node.run(script, key, *args)

    async def call(self, *args: Arg, patience: float | None = 30.0) -> Any:
        """As `Wire.call`; a command without a key goes to any node."""
        return await self._repeat(prefix_of(args), lambda node: node.send(*args), patience)

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """As `Wire.call_script`."""
        node = self._owners.get(key)
        if node is not None and node.connected and node.room():
            try:
                return await node.run(script, key, *args)
            except CallLostError:
                pass
        return await self._repeat(key, lambda node: node.run(script, key, *args), patience)

    async def ready(self, key: bytes) -> None:
        """Wait until the node that a key lives on can be called, and its slot is at rest there."""
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
                    await self._look()
                stale = True  # unless the node answers
                node = self._owner(prefix) or await self._find(prefix)
                if not node.connected:
                    await node.reach(min(until, loop.time() + REACH_SECONDS))
                stale = False
                if not node.room():
                    await node.wait_for_room()
                return await send(node)
            except (CallLostError, RedisUnavailableError) as error:
                code = getattr(error, "code", "")
                stale = stale or code == "CLUSTERDOWN"  # where this node is, maybe
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
        state = "is closed" if self._closed else "is not made yet"
        future.set_exception(CallLostError(f"the connection to {self.address} {state}", sent=False))
        future.exception()  # no report when nobody looks
        return future

    # --- the nodes as seen by those who need more than calls ---

    def groups(self, prefixes: Sequence[bytes]) -> list[list[bytes]]:
        """The partitions that one blocked read can cover: each has a slot of its own."""
        return [[prefix] for prefix in prefixes]

    def beside(self, key: bytes, **options: Any) -> Wire:
        """A connection of its own to the node that a key lives on; it follows when the slot moves."""
        prefix = prefix_of((key,))

        async def locate() -> str:
            owner = self._owner(prefix)
            if owner is None or not owner.connected:
                owner = await self._find(prefix)
            return owner.url

        return Wire(self._target.seeds[0], locate=locate, on_moved=self._moved, **options)

    def node(self, key: bytes) -> Wire | None:
        """The connection to the node that a key lives on, if that is known."""
        return self._owner(prefix_of((key,)))

    async def nodes(self) -> list[Wire]:
        """The connections to all masters that own a slot."""
        await self._look()
        return list(self._nodes.values())

    # --- who owns what ---

    def _owner(self, prefix: bytes | None) -> Wire | None:
        """The node of a partition (of none: any node, a connected one if there is one), if known."""
        if prefix is None:
            nodes = sorted(self._nodes.values(), key=lambda node: not node.connected)
            return nodes[0] if nodes else None
        owner = self._owners.get(prefix)
        if owner is None and (url := self._slots.get(slot_of(prefix))) is not None:
            owner = self._owners[prefix] = self._wire_to(url)
        return owner

    async def _find(self, prefix: bytes | None) -> Wire:
        """The node of a partition, by the latest news."""
        await self._look()
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
                on_connect=self._connected,
                on_moved=self._moved,
            )
        return node

    async def _connected(self, node: Wire) -> None:
        self.epoch += 1

    def _moved(self, text: str) -> None:
        """Take in what a MOVED tells: its slot, and host:port of the owner."""
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

    async def _look(self) -> None:
        """Ask who owns what; all who want to know meanwhile share the question."""
        if self._closed:
            raise RedisUnavailableError(f"the connection to {self.address} was closed: make a new one")
        if self._looking is None:
            # in a context of its own: a caller's task factory must not hold this for the caller's task
            self._looking = asyncio.get_running_loop().create_task(
                self._look_around(), name=f"polos: look at {self.address}", context=Context()
            )
            self._looking.add_done_callback(self._looked)
        looking = self._looking
        await asyncio.wait((looking,))
        if looking.cancelled():
            raise RedisUnavailableError(f"the connection to {self.address} was closed")
        if (error := looking.exception()) is not None:
            raise error.with_traceback(None)

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking, self._looked_at = None, looking.get_loop().time()
        if not looking.cancelled():
            looking.exception()  # no report when nobody waits any more

    async def _look_around(self) -> None:
        """Take the answer of any node: connected ones first, then the seeds, then all others."""
        await asyncio.sleep(self._looked_at + LOOK_PAUSE - asyncio.get_running_loop().time())
        troubles: list[str] = []
        nodes = list(self._nodes.values())
        random.shuffle(nodes)
        known: list[Wire | str] = [node for node in nodes if node.connected]
        known += self._target.seeds
        known += [node.url for node in nodes if not node.connected]
        for node in known:
            try:
                async with asyncio.timeout(2 * ASK_SECONDS):
                    slots = await read_slots(self._target, node)
            except (ConnectionLostError, RedisUnavailableError) as error:
                troubles.append(str(error))
            except TimeoutError:
                address = node.address if isinstance(node, Wire) else parse(node).address
                troubles.append(f"{address} gave no answer")
            else:
                self._learn(slots)
                owners = set(slots.values())
                for url in owners:
                    self._wire_to(url)
                for url in self._nodes.keys() - owners:
                    leaving = asyncio.ensure_future(self._nodes.pop(url).close())
                    self._leaving.add(leaving)
                    leaving.add_done_callback(self._leaving.discard)
                return
        raise RedisUnavailableError(f"no node of {self.address} could be asked: {'; '.join(troubles)}")

    # --- closing ---

    async def close(self) -> None:
        """As `Wire.close`."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*(node.close() for node in self._nodes.values()), *self._leaving)

    def abort(self) -> None:
        """As `Wire.abort`."""
        self._closed = True
        for node in self._nodes.values():
            node.abort()
