"""streaQ: jobs on a Redis stream, acknowledged, not durable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers import process
from benchmarks.peers.peer import JOB_CASES, Job, Peer

CONCURRENCY = 32

PEER = Peer(
    name="streaQ",
    module="streaq",
    server="redis",
    cases=JOB_CASES,
    stated=f"concurrency={CONCURRENCY}, and as many prefetched; results by result()",
    packages=("streaq==7.2.0", "coredis==6.9.0", "uvloop==0.23.0"),
)


def _worker(address: str) -> tuple[Any, Any]:
    """The worker and its task."""
    from streaq import Worker

    worker = Worker(redis_url=address, concurrency=CONCURRENCY, handle_signals=False)

    @worker.task(silent=True)
    async def noop() -> None:
        """The job."""

    return worker, noop


async def worker(address: str, ready: process.Ready) -> None:
    from anyio import create_task_group

    worker, _ = _worker(address)
    async with create_task_group() as group:
        await group.start(worker.run_async)
        ready()


class Client:
    def __init__(self, worker: Any, noop: Any) -> None:
        self._worker, self._noop = worker, noop

    async def start(self, job: Job) -> None:
        await self._noop.enqueue()

    async def finished(self) -> bool:
        return not await self._worker.queue_size()

    async def call(self) -> None:
        task = await self._noop.enqueue()
        await task.result()

    async def suspend(self, count: int) -> Sequence[Any]:
        raise NotImplementedError

    async def resume(self, suspended: Any) -> None:
        raise NotImplementedError


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Client]:
    worker, noop = _worker(address)
    async with worker:
        yield Client(worker, noop)


if __name__ == "__main__":
    process.run(client, worker)
