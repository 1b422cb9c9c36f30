"""A real Redis Cluster of three masters on this machine's loopback interface."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from polos_redis import cluster
from tests.running import until
from tests.servers import ChaosServer
from tests.state import RawConnection

NODES = 3
SECONDS = 20.0  # for the nodes to find each other


class Node(ChaosServer):
    """One master."""

    def __init__(self, folder: Path, binary: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            bus: int = probe.getsockname()[1]
        settings = {"cluster-enabled": "yes", "cluster-port": str(bus), "cluster-node-timeout": "2000"}
        super().__init__(folder, port=0, binary=binary, config=settings)
        self.bus = bus
        self.id = ""

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def do(self, *command: str | int | bytes) -> Any:
        """One command over a connection of its own."""
        with RawConnection(self.url) as connection:
            return connection.do(*command)


class Cluster:
    """Three masters with a third of the slots each: `with Cluster(folder, binary) as cluster: ...`."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.nodes = [Node(folder / str(number), binary) for number in range(NODES)]
        self._running = False

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Self:
        """Start what is not running, and wait until all nodes know each other."""
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
        deadline = time.monotonic() + SECONDS
        while not all(self._knows_all(node) for node in self.nodes):
            assert time.monotonic() < deadline, self.nodes[0].do("CLUSTER", "NODES").decode()
            time.sleep(0.02)

    def _knows_all(self, node: Node) -> bool:
        facts = node.do("CLUSTER", "INFO").decode()
        return "cluster_state:ok" in facts and f"cluster_slots_assigned:{cluster.SLOTS}" in facts

    # --- slots --------------------------------------------------------------------------

    def owner(self, key: bytes) -> Node:
        """The node that has a key's slot, as the first node sees it."""
        slot = cluster.slot_of(key)
        for first, last, (_, port, *_), *_ in self.nodes[0].do("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"no node has slot {slot}")

    async def move(self, key: bytes, to: Node, *, at_a_time: int = 10, between: float = 0.0) -> None:
        """Migrate a key's slot to another node, key by key, as `redis-cli --cluster reshard` does."""
        slot, source = cluster.slot_of(key), self.owner(key)
        await asyncio.to_thread(to.do, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await asyncio.to_thread(source.do, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        while keys := await asyncio.to_thread(source.do, "CLUSTER", "GETKEYSINSLOT", slot, at_a_time):
            command = ("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            await asyncio.to_thread(source.do, *command)
            await asyncio.sleep(between)
        for node in (to, source, *self.nodes):
            await asyncio.to_thread(node.do, "CLUSTER", "SETSLOT", slot, "NODE", to.id)
        await until(lambda: self.owner(key) is to, f"slot {slot} to have moved")
