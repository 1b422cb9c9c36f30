"""What the load runs on: one server behind a proxy, or a cluster with replicas."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import redis

from tests.chaos.log_cut import cut_log
from tests.harness.cluster import Cluster, Node
from tests.harness.proxy import Proxy
from tests.harness.running import until
from tests.harness.servers import ChaosServer
from tests.invariants.state import RawConnection


class Target(Protocol):
    """Where workers and clients connect to (`url`), and how the audit reads it (`direct_url`)."""

    url: str
    direct_url: str

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class OneServer:
    """One server; workers and clients reach it through a proxy."""

    def __init__(self, folder: Path, binary: Path, fsync: str) -> None:
        self.server = ChaosServer(folder / "redis", binary=binary, config={"appendfsync": fsync})

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)
        self.direct_url = self.server.url
        self.proxy = Proxy(self.server.url)
        await self.proxy.__aenter__()
        self.url = self.proxy.url

    async def stop(self) -> None:
        await self.proxy.__aexit__(None, None, None)
        await asyncio.to_thread(self.server.stop)

    async def do(self, *command: str) -> Any:
        return await asyncio.to_thread(_do, self.server.url, *command)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start_again(self) -> None:
        """Start it from its log, and let it write a new one, as operators are told to: some versions load a
        log that ends inside a transaction with that transaction left open."""
        await asyncio.to_thread(self.server.start)
        with suppress(redis.ResponseError):  # it has begun by itself
            await self.do("BGREWRITEAOF")

        async def rewritten() -> bool:
            facts = (await self.do("INFO", "persistence")).decode()
            return "aof_rewrite_in_progress:0" in facts and "aof_rewrite_scheduled:0" in facts

        await until(rewritten, "the log to be rewritten")

    def cut_log(self, rng: random.Random, *, inside_transaction: bool) -> bytes:
        """Cut the log of the stopped server; return what it lost."""
        return cut_log(self.server.data_dir, rng, inside_transaction=inside_transaction)


class ServerCluster:
    """Three masters with a replica each. Nodes announce their own addresses, so there is no proxy."""

    def __init__(self, folder: Path, binary: Path, fsync: str) -> None:
        config = {"appendfsync": fsync, "cluster-replica-no-failover": "yes"}  # none that is not ours
        self.cluster = Cluster(folder / "cluster", binary, config)

    async def start(self) -> None:
        await asyncio.to_thread(self.cluster.start)
        for master in list(self.cluster.nodes):
            await asyncio.to_thread(self.cluster.add_replica, master)
        self.url = self.direct_url = self.cluster.url

    async def stop(self) -> None:
        await asyncio.to_thread(self.cluster.stop)

    async def pair(self, rng: random.Random) -> tuple[Node, Node]:
        """A master and a replica that is in sync with it."""

        async def pairs() -> list[tuple[Node, Node]]:
            return await asyncio.to_thread(self._pairs)

        found: list[tuple[Node, Node]] = await until(pairs, "a master with a replica in sync")
        return rng.choice(found)

    def _pairs(self) -> list[tuple[Node, Node]]:
        found = []
        by_port = {node.port: node for node in self.cluster.nodes}
        for node in self.cluster.nodes:
            role = node.do("ROLE")
            if role[0] == b"slave" and role[3] == b"connected":
                master = by_port[int(role[2])]
                if master.do("ROLE")[0] == b"master":
                    found.append((master, node))
        return found

    async def promoted(self, node: Node) -> None:
        """Wait until a node is the master of its slots and every node knows."""

        def known() -> bool:
            role = node.do("ROLE")[0] == b"master"
            running = [one for one in self.cluster.nodes if one.running]
            return role and all(_is_master_for(one, node) for one in running)

        await until(lambda: asyncio.to_thread(_quietly, known), "a replica to be promoted")

    async def healthy(self) -> None:
        """Wait until every node sees a cluster without a fault."""

        def good() -> bool:
            return all(
                "cluster_state:ok" in node.do("CLUSTER", "INFO").decode() for node in self.cluster.nodes
            )

        await until(lambda: asyncio.to_thread(_quietly, good), "the cluster to be healthy")


def _quietly(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except Exception:  # a node that is just starting or being killed
        return False


def _is_master_for(one: Node, node: Node) -> bool:
    lines = one.do("CLUSTER", "NODES").decode().splitlines()
    return any(line.startswith(node.id) and "master" in line.split()[2] for line in lines)


def _do(url: str, *command: str) -> Any:
    with RawConnection(url) as connection:
        return connection.do(*command)
