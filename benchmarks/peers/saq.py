"""saq: jobs on Redis lists, not durable. A worker that dies loses what it ran until a sweep finds it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers import process
from benchmarks.peers.peer import JOB_CASES, Job, Peer

CONCURRENCY = 32
CHECK_SECONDS = 0.001

PEER = Peer(
    name="saq",
    module="saq",
    server="redis",
    cases=JOB_CASES,
    stated=f"hiredis; concurrency={CONCURRENCY}; max_concurrent_ops=1000; "
    f"apply(poll_interval={CHECK_SECONDS:g})",
    packages=("saq[redis,hiredis]==0.26.4", "typing_extensions==4.15.0", "uvloop==0.23.0"),
)


async def noop(ctx: Any) -> None:
    """The job."""


async def worker(address: str, ready: process.Ready) -> None:
    from saq import Queue, Worker

    async def started(ctx: Any) -> None:
        ready()

    queue = Queue.from_url(address)
    await Worker(queue, [noop], concurrency=CONCURRENCY, startup=started).start()


class Client:
    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def start(self, job: Job) -> None:
        await self._queue.enqueue("noop")

    async def finished(self) -> bool:
        return not await self._queue.count("incomplete")

    async def call(self) -> None:
        await self._queue.apply("noop", poll_interval=CHECK_SECONDS)

    async def suspend(self, count: int) -> Sequence[Any]:
        raise NotImplementedError

    async def resume(self, suspended: Any) -> None:
        raise NotImplementedError


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Client]:
    from saq import Queue

    yield Client(Queue.from_url(address, max_concurrent_ops=1000))


if __name__ == "__main__":
    process.run(client, worker)
