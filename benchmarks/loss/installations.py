"""The installations that crash: one server, a master watched by a sentinel, and a cluster with a replica."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.loss.disk import Markers, cut, marker, markers
from benchmarks.loss.load import Acknowledged
from benchmarks.loss.network import Network
from polos_redis import PolosClient
from polos_redis.state import keys
from polos_redis.wire.routing import AnyWire
from tests.harness.cluster import Cluster, Node
from tests.harness.sentinel import SERVICE, Sentinel, port_of
from tests.harness.servers import AT_ONCE, ChaosServer, wait_for

NAMESPACE = "loss"
DOWN_AFTER_MS = 1000  # until a sentinel presumes a master dead; a cluster's nodes wait 2 s
START_SECONDS = 30.0


class Installation(Protocol):
    """A running installation, and how its machine (or the master's) crashes and what follows."""

    url: str
    namespace: str

    def crash(self) -> None:
        """Kill the server. Returns once its process is gone."""
        ...

    async def recover(self, acknowledged: Acknowledged) -> None:
        """Do what an operator does. A failover needs nobody."""
        ...


class OneServer:
    """One server, which starts again after the crash, with what its disk has."""

    def __init__(self, server: ChaosServer, proven: Markers | None, always: bool) -> None:
        self.url, self.namespace = server.url, NAMESPACE
        self._server, self._proven, self._always = server, proven, always

    def crash(self) -> None:
        self._server.kill()

    async def recover(self, acknowledged: Acknowledged) -> None:
        if self._proven is not None:
            proofs = {marker(self._proven.confirmed).encode()}
            if self._always:  # what Redis has answered, it has fsynced
                prefix = keys.prefix(self.namespace, 0)
                proofs |= {f"{prefix}{keys.EXEC}{one}".encode() for one in acknowledged.starts}
                proofs |= {f"{prefix}{keys.EARLY}{one}".encode() for one in acknowledged.answers}
            await asyncio.to_thread(cut, self._server.data_dir, proofs)
        await asyncio.to_thread(self._server.start)


@asynccontextmanager
async def one_server(folder: Path, binary: Path, fsync: str, *, machine: bool) -> AsyncIterator[Installation]:
    """A server; with `machine`, its machine crashes, otherwise only its process.

    Raises `ConfigurationError` for a server whose WAITAOF can't be believed.
    """
    settings = {"appendfsync": fsync, "auto-aof-rewrite-percentage": "0"}
    server = ChaosServer(folder / "redis", port=0, binary=binary, config=settings)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        if machine:
            async with PolosClient(server.url, NAMESPACE, durability="fsync") as client:
                store = await client.acknowledging_store()
                await rewrite_log(store.wire)
        proven = await stack.enter_async_context(markers(server.url)) if machine else None
        yield OneServer(server, proven, fsync == "always")


async def rewrite_log(wire: AnyWire) -> None:
    """Have a server rewrite its log, so that no worker requests that under load: it would move markers to
    another file."""
    await wire.call("BGREWRITEAOF")
    async with asyncio.timeout(START_SECONDS):
        while True:
            lines = (await wire.call("INFO", "persistence")).decode().splitlines()
            facts = dict(line.split(":", 1) for line in lines if ":" in line)
            if facts["aof_last_rewrite_time_sec"] != "-1" and facts["aof_rewrite_in_progress"] == "0":
                return
            await asyncio.sleep(0.01)


class Replicated:
    """A master and a replica that is promoted by others. The master's network is late and ends with it."""

    def __init__(self, url: str, namespace: str, master: ChaosServer, network: Network) -> None:
        self.url, self.namespace = url, namespace
        self._master, self._network = master, network

    def crash(self) -> None:
        self._network.crash()
        self._master.kill()

    async def recover(self, acknowledged: Acknowledged) -> None:
        pass


@asynccontextmanager
async def sentinel(folder: Path, binary: Path, lag: float) -> AsyncIterator[Installation]:
    """A master, a replica and a sentinel."""
    async with AsyncExitStack() as stack:
        master = ChaosServer(folder / "master", port=0, binary=binary, config=AT_ONCE)
        await stack.enter_async_context(master)
        network = Network(port_of(master.url), lag)
        stack.callback(network.close)
        follow = {"replicaof": f"127.0.0.1 {network.port}", **AT_ONCE}
        replica = ChaosServer(folder / "replica", port=0, binary=binary, config=follow)
        await stack.enter_async_context(replica)
        watching = Sentinel(folder / "sentinel", binary, _At(network.url))  # type: ignore[arg-type]
        await stack.enter_async_context(watching)
        for name, value in (("down-after-milliseconds", str(DOWN_AFTER_MS)), ("auth-pass", "")):
            await asyncio.to_thread(watching.do, "SENTINEL", "SET", SERVICE, name, value)
        await asyncio.to_thread(watching.do, "SENTINEL", "DEBUG", "INFO-PERIOD", "100")
        await _until(lambda: _sees_a_replica(watching), "the sentinel to see the replica")
        url = f"redis+sentinel://127.0.0.1:{port_of(watching.url)}/{SERVICE}"
        yield Replicated(url, NAMESPACE, master, network)


@asynccontextmanager
async def cluster(folder: Path, binary: Path, lag: float) -> AsyncIterator[Installation]:
    """Three masters, of which one has a replica and all executions."""
    async with AsyncExitStack() as stack:
        nodes = Cluster(folder / "cluster", binary)
        stack.push_async_callback(asyncio.to_thread, nodes.stop)
        await asyncio.to_thread(nodes.start)
        master, *others = nodes.nodes
        names = (f"{NAMESPACE}-{number}" for number in itertools.count())
        namespace = await asyncio.to_thread(
            lambda: next(one for one in names if nodes.owner(keys.prefix(one, 0).encode()) is master)
        )
        network = Network(master.port, lag)
        stack.callback(network.close)
        await asyncio.to_thread(master.do, "CONFIG", "SET", "cluster-announce-port", network.port)
        at = f"127.0.0.1:{network.port}@"
        await _until(lambda: all(at in _nodes(one) for one in others), "the address of the master")
        await asyncio.to_thread(nodes.add_replica, master)
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in others)
        yield Replicated(url, namespace, master, network)


class _At:
    """What a sentinel watches: an address."""

    def __init__(self, url: str) -> None:
        self.url = url


def _sees_a_replica(watching: Sentinel) -> bool:
    rows: list[Any] = watching.do("SENTINEL", "REPLICAS", SERVICE)
    facts = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    return any(one[b"master-link-status"] == b"ok" and one[b"flags"] == b"slave" for one in facts)


def _nodes(node: Node) -> str:
    found: bytes = node.do("CLUSTER", "NODES")
    return found.decode()


async def _until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(partial(wait_for, condition, what))
