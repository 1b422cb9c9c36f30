"""The faults: what is killed, frozen, cut and restarted, and when."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from tests.chaos.history import Fault, History
from tests.chaos.targets import OneServer, ServerCluster
from tests.harness.fleet import Fleet, WorkerProcess
from tests.harness.running import until

MODULE = "tests.chaos.workflows"
PAUSE_SECONDS = 5.0  # between two faults of workers, and between two of the server, at most
KEEP_SECONDS = 0.2
WORKERS_LEFT = 1  # that no fault has hit, so that there is somebody to recover the others' work


class Workers:
    """The worker processes: as many as there should be, however many are killed."""

    def __init__(self, fleet: Fleet, count: int, history: History, options: dict[str, Any]) -> None:
        self.fleet, self.history = fleet, history
        self._count, self._options = count, options
        self._hit: set[int] = set()  # frozen, or told to stop
        self._seen_ready: set[int] = set()

    async def start(self) -> None:
        for _ in range(self._count):
            self._launch()
        for worker in self.fleet.workers:
            await worker.ready()

    async def keep(self) -> None:
        """Replace every worker that has ended, whatever ended it."""
        while True:
            for _ in range(self._count - sum(one.running for one in self.fleet.workers)):
                self._launch()
            await asyncio.sleep(KEEP_SECONDS)

    def _launch(self) -> None:
        self.fleet.launch(defined_in=MODULE, **self._options)

    def _whole(self) -> list[WorkerProcess]:
        return [one for one in self.fleet.workers if one.running and one.pid not in self._hit]

    async def kill(self, rng: random.Random) -> None:
        """Kill one."""
        victim = self._victim(rng)
        await self._kill([victim], "worker killed")

    async def kill_all(self, rng: random.Random) -> None:
        """Kill all that are not frozen."""
        await self._kill(self._whole(), "all workers killed")

    async def _kill(self, victims: list[WorkerProcess], kind: str) -> None:
        fault = self._fault(kind, *victims)
        for victim in victims:
            victim.kill()
        fault.ended = time.monotonic()

    async def freeze(self, rng: random.Random) -> None:
        """Freeze one for less or for more than its lease."""
        victim = self._victim(rng)
        fault = self._fault("worker frozen", victim)
        self._hit.add(victim.pid)
        victim.pause()
        try:
            leases = rng.choice((rng.uniform(0.2, 1.0), rng.uniform(2.0, 4.0)))
            await asyncio.sleep(leases * self._options["lease_seconds"])
        finally:
            victim.resume()
        fault.ended = time.monotonic()
        self._hit.discard(victim.pid)

    async def terminate(self, rng: random.Random) -> None:
        """Stop one as an operator does."""
        victim = self._victim(rng)
        fault = self._fault("worker stopped", victim)
        self._hit.add(victim.pid)
        victim.terminate()
        status = await victim.ended()
        fault.ended = time.monotonic()
        if status:
            self.history.left.append(f"worker {victim.pid} exited with {status} after SIGTERM")

    async def stop(self) -> None:
        """Stop all."""
        running = [worker for worker in self.fleet.workers if worker.running]
        for worker in running:
            await _started(worker)  # one that is just starting takes no signals yet
            worker.terminate()
        for worker in running:
            if status := await worker.ended():
                self.history.left.append(f"worker {worker.pid} exited with {status} after SIGTERM")

    async def complete(self) -> None:
        """Wait until as many as there should be are ready."""
        await until(lambda: len(self._ready()) == self._count, "all workers to be ready")

    async def enough(self) -> None:
        """Wait until there are workers to choose a victim from."""
        while len(self._ready()) <= WORKERS_LEFT:  # noqa: ASYNC110 - they are other processes
            await asyncio.sleep(KEEP_SECONDS)

    def _victim(self, rng: random.Random) -> WorkerProcess:
        return rng.choice(self._ready())

    def _ready(self) -> list[WorkerProcess]:
        self._seen_ready |= {
            one.pid for one in self._whole() if one.pid not in self._seen_ready and one.is_ready
        }
        return [one for one in self._whole() if one.pid in self._seen_ready]

    def _fault(self, kind: str, *victims: WorkerProcess) -> Fault:
        fault = Fault(kind, time.monotonic(), pids=frozenset(victim.pid for victim in victims))
        self.history.faults.append(fault)
        return fault

    def unexpected_ends(self) -> list[str]:
        """Workers that nobody killed or stopped and that ended."""
        struck = {pid for fault in self.history.faults for pid in fault.pids if fault.kind != "worker frozen"}
        ended = [one for one in self.fleet.workers if not one.running and one.pid not in struck]
        return [f"worker {one.pid} ended by itself: {one.log.strip().splitlines()[-1:]}" for one in ended]


async def _started(worker: WorkerProcess) -> None:
    await until(lambda: worker.is_ready or not worker.running, "a worker to be ready")


class ServerFaults:
    """What may happen to one server and to the connections to it."""

    def __init__(self, target: OneServer, history: History, lease: float, *, may_lose: bool) -> None:
        self.target, self.history, self.lease, self.may_lose = target, history, lease, may_lose
        self.kinds: dict[str, Callable[[random.Random, Fault], Awaitable[None]]] = {
            "server killed": self._kill,
            "server frozen": self._freeze,
            "connections cut": self._cut,
            "connections stalled": self._stall,
            "connections half-open": self._half_open,
            "connections half-closed": self._half_close,
            "scripts flushed": self._flush,
            "clients killed": self._kill_clients,
        }
        if may_lose:
            self.kinds["log cut"] = self._cut_log
            self.kinds["log cut in a transaction"] = self._cut_transaction

    async def _kill(self, rng: random.Random, fault: Fault) -> None:
        fault.loses = self.may_lose
        await self.target.kill()
        await asyncio.sleep(rng.uniform(0, 1.5) * self.lease)
        await self.target.start_again()

    async def _cut_log(self, rng: random.Random, fault: Fault, *, inside_transaction: bool = False) -> None:
        fault.loses = True
        await self.target.kill()
        fault.lost = self.target.cut_log(rng, inside_transaction=inside_transaction)
        fault.note = f"({len(fault.lost)} bytes)"
        await self.target.start_again()

    async def _cut_transaction(self, rng: random.Random, fault: Fault) -> None:
        await self._cut_log(rng, fault, inside_transaction=True)

    async def _freeze(self, rng: random.Random, fault: Fault) -> None:
        self.target.server.pause()
        try:
            await asyncio.sleep(rng.uniform(0.2, 2.0) * self.lease)
        finally:
            self.target.server.resume()

    async def _cut(self, rng: random.Random, fault: Fault) -> None:
        for _ in range(rng.randint(1, 4)):
            self.target.proxy.reset()
            await asyncio.sleep(rng.uniform(0.1, 0.5) * self.lease)

    async def _stall(self, rng: random.Random, fault: Fault) -> None:
        self.target.proxy.stall()
        try:
            await asyncio.sleep(rng.uniform(0.2, 2.0) * self.lease)
        finally:
            self.target.proxy.flow()

    async def _half_open(self, rng: random.Random, fault: Fault) -> None:
        self.target.proxy.freeze()
        await until(lambda: not self.target.proxy.silent_lines, "half-open connections to be given up")

    async def _half_close(self, rng: random.Random, fault: Fault) -> None:
        self.target.proxy.half_close()
        await until(lambda: not self.target.proxy.silent_lines, "half-closed connections to be given up")

    async def _flush(self, rng: random.Random, fault: Fault) -> None:
        await self.target.do("SCRIPT", "FLUSH")

    async def _kill_clients(self, rng: random.Random, fault: Fault) -> None:
        for kind in ("normal", "pubsub"):
            await self.target.do("CLIENT", "KILL", "TYPE", kind)


class ClusterFaults:
    """What may happen to the nodes of a cluster. An abrupt failover may lose what was not replicated yet."""

    def __init__(self, target: ServerCluster, history: History, lease: float) -> None:
        self.target, self.history, self.lease = target, history, lease
        self.kinds: dict[str, Callable[[random.Random, Fault], Awaitable[None]]] = {
            "node failed over": self._fail_over,
            "node killed, replica took over": self._take_over,
            "node frozen": self._freeze,
            "scripts flushed": self._flush,
            "clients killed": self._kill_clients,
        }

    async def _fail_over(self, rng: random.Random, fault: Fault) -> None:
        _, replica = await self.target.pair(rng)
        await asyncio.to_thread(replica.do, "CLUSTER", "FAILOVER")
        await self.target.promoted(replica)

    async def _take_over(self, rng: random.Random, fault: Fault) -> None:
        master, replica = await self.target.pair(rng)
        fault.loses = True
        await asyncio.to_thread(master.kill)
        await asyncio.to_thread(replica.do, "CLUSTER", "FAILOVER", "TAKEOVER")
        await asyncio.sleep(rng.uniform(0, 1) * self.lease)
        await asyncio.to_thread(master.start)
        await self.target.promoted(replica)
        await self.target.healthy()

    async def _freeze(self, rng: random.Random, fault: Fault) -> None:
        """Shorter than the time after which its replica would take over."""
        node = rng.choice(self.target.cluster.nodes)
        node.pause()
        try:
            await asyncio.sleep(rng.uniform(0.3, 1.5))
        finally:
            node.resume()

    async def _flush(self, rng: random.Random, fault: Fault) -> None:
        for node in self.target.cluster.nodes:
            await asyncio.to_thread(node.do, "SCRIPT", "FLUSH")

    async def _kill_clients(self, rng: random.Random, fault: Fault) -> None:
        for node in self.target.cluster.nodes:
            for kind in ("normal", "pubsub"):
                await asyncio.to_thread(node.do, "CLIENT", "KILL", "TYPE", kind)


class Faults:
    """Faults in random order, each kind once before any comes again. Those of workers overlap the others."""

    def __init__(self, workers: Workers, servers: ServerFaults | ClusterFaults, seed: int) -> None:
        self._workers, self._servers = workers, servers
        self._kinds_of_workers: dict[str, Callable[[random.Random], Coroutine[Any, Any, None]]] = {
            "worker killed": workers.kill,
            "worker frozen": workers.freeze,
            "worker stopped": workers.terminate,
            "all workers killed": workers.kill_all,
        }
        self._seed = seed

    async def run(self, seconds: float) -> None:
        """Go on for that long, and until each kind has occurred; return when the last one is over."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hit_workers(end, group))
            group.create_task(self._hit_servers(end))

    async def _hit_workers(self, end: float, group: asyncio.TaskGroup) -> None:
        """One after the other, without waiting for those that take time."""
        async for kind, rng in self._kinds("workers", list(self._kinds_of_workers), end):
            await self._workers.enough()
            group.create_task(self._kinds_of_workers[kind](rng))

    async def _hit_servers(self, end: float) -> None:
        async for kind, rng in self._kinds("servers", list(self._servers.kinds), end):
            fault = Fault(kind, time.monotonic())
            self._workers.history.faults.append(fault)
            try:
                await self._servers.kinds[kind](rng, fault)
            finally:
                fault.ended = time.monotonic()

    async def _kinds(
        self, what: str, kinds: list[str], end: float
    ) -> AsyncIterator[tuple[str, random.Random]]:
        """Each kind with random numbers of its own, after a pause."""
        rng, deck, left = random.Random(f"{what} {self._seed}"), list[str](), set(kinds)
        pause = min(PAUSE_SECONDS, (end - time.monotonic()) / len(kinds))
        while left or time.monotonic() < end:
            deck = deck or rng.sample(kinds, len(kinds))
            kind = deck.pop()
            left.discard(kind)
            yield kind, random.Random(rng.random())
            await asyncio.sleep(rng.uniform(0.4, 1.0) * pause)
