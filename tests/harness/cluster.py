"""A real Redis Cluster of three masters on this machine's loopback interface."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from polos_redis.wire import cluster
from tests.harness.running import until
from tests.harness.servers import AT_ONCE, ChaosServer, wait_for
from tests.invariants.state import RawConnection

NODES = 3
AT_A_TIME = 10  # keys of a migrating slot


class Node(ChaosServer):
    """One master."""

    def __init__(self, folder: Path, binary: Path, config: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            bus: int = probe.getsockname()[1]
        settings = {"cluster-enabled": "yes", "cluster-port": str(bus), "cluster-node-timeout": "2000"}
        super().__init__(folder, port=0, binary=binary, config={**settings, **AT_ONCE, **(config or {})})
        self.bus = bus
        self.id = ""

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def do(self, *command: str | int | bytes) -> Any:
        """Run one command over its own connection."""
        with RawConnection(self.url) as connection:
            return connection.do(*command)


class Cluster:
    """Three masters with a third of the slots each: `with Cluster(folder, binary) as cluster: ...`."""

    def __init__(self, folder: Path, binary: Path, config: Mapping[str, str] | None = None) -> None:
        self._folder, self._binary, self._config = folder, binary, config
        self.nodes = [Node(folder / str(number), binary, config) for number in range(NODES)]
        self._running = False

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Self:
        """Start the nodes that are down, and wait until all nodes know each other."""
        if not self._running:
            self._running = True
            for node in self.nodes:
                node.start()
            self._join()
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self._running = False

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _join(self) -> None:
        share = cluster.SLOTS // len(self.nodes) + 1
        for number, node in enumerate(self.nodes):
            node.id = node.do("CLUSTER", "MYID").decode()
            first, last = share * number, min(share * (number + 1), cluster.SLOTS) - 1
            node.do("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.do("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            node.do("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus)
        wait_for(lambda: all(self._knows_all(node) for node in self.nodes), "the nodes to know each other")

    def _knows_all(self, node: Node) -> bool:
        facts = node.do("CLUSTER", "INFO").decode()
        return "cluster_state:ok" in facts and f"cluster_slots_assigned:{cluster.SLOTS}" in facts

    # --- slots --------------------------------------------------------------------------

    def owner(self, key: bytes) -> Node:
        """The node that owns a key's slot, according to the first node."""
        slot = cluster.slot_of(key)
        for first, last, (_, port, *_), *_ in self.nodes[0].do("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"no node has slot {slot}")

    def next_after(self, node: Node) -> Node:
        """Another node."""
        return self.nodes[(self.nodes.index(node) + 1) % len(self.nodes)]

    @property
    def moves_at_once(self) -> bool:
        """Whether the servers can migrate a slot as a whole (Valkey 9)."""
        return "valkey_version:9" in self.nodes[0].do("INFO", "server").decode()

    async def move_at_once(self, key: bytes, to: Node) -> None:
        """Migrate a key's slot as a whole."""
        slot, source = cluster.slot_of(key), self.owner(key)
        command = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.id)
        await asyncio.to_thread(source.do, *command)
        await until(lambda: self.owner(key) is to, f"slot {slot} to have moved")

    async def move(self, key: bytes, to: Node) -> None:
        """Migrate a key's slot to another node, key by key, as `redis-cli --cluster reshard` does."""
        async with self.migrating(key, to):
            pass

    @asynccontextmanager
    async def migrating(self, key: bytes, to: Node) -> AsyncIterator[None]:
        """Keep a key's slot half migrated inside the block; complete the move at its end."""
        slot, source = cluster.slot_of(key), self.owner(key)
        await asyncio.to_thread(to.do, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await asyncio.to_thread(source.do, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        keys = await asyncio.to_thread(source.do, "CLUSTER", "GETKEYSINSLOT", slot, 1_000_000)
        half = len(keys) // 2
        await asyncio.to_thread(_migrate, source, to, keys[:half])
        try:
            yield
        finally:
            await asyncio.to_thread(_migrate, source, to, keys[half:])
            for node in (to, source, *self.nodes):
                await asyncio.to_thread(node.do, "CLUSTER", "SETSLOT", slot, "NODE", to.id)
        await until(lambda: self.owner(key) is to, f"slot {slot} to have moved")

    # --- replicas -----------------------------------------------------------------------

    def add_replica(self, master: Node) -> Node:
        """Start a replica of a master, and return once it is in sync."""
        replica = Node(self._folder / str(len(self.nodes)), self._binary, self._config)
        self.nodes.append(replica)
        replica.start()
        replica.id = replica.do("CLUSTER", "MYID").decode()
        replica.do("CLUSTER", "MEET", "127.0.0.1", master.port, master.bus)
        wait_for(partial(_knows, replica, master), "the replica to know its master")
        replica.do("CLUSTER", "REPLICATE", master.id)
        wait_for(lambda: "master_link_status:up" in replica.do("INFO", "replication").decode(), "the replica")
        for node in self.nodes:
            wait_for(partial(_knows, node, replica), "the replica's news to spread")
        return replica


def _knows(node: Node, other: Node) -> bool:
    return other.id in node.do("CLUSTER", "NODES").decode()


def _migrate(source: Node, to: Node, keys: list[bytes]) -> None:
    with RawConnection(source.url) as connection:
        for first in range(0, len(keys), AT_A_TIME):
            some = keys[first : first + AT_A_TIME]
            connection.do("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *some)
